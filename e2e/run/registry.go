package run

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"

	"go.yaml.in/yaml/v4"
)

// Instance is what a catalog is told of one.
type Instance struct {
	Service  string
	ID       string
	Address  string // 127.0.0.1 if empty
	Port     int    // the app's
	MeshPort int    // 0: not in the mesh
	Weight   int    // 1 if 0
	NoWeight bool   // weight 0: nothing new is to go there
	// Datacenter is for file catalogs: in Consul it is that of the server.
	Datacenter string
	Zone       string
	Tags       []string
	Meta       map[string]string // added to mesh_port
	Health     Health            // passing if empty
}

// Health is a word of the catalogs.
type Health string

// The states of an instance.
const (
	Passing     Health = "passing"
	Warning     Health = "warning"
	Critical    Health = "critical"
	Maintenance Health = "maintenance"
)

func (i Instance) withDefaults() Instance {
	if i.Address == "" {
		i.Address = "127.0.0.1"
	}
	switch {
	case i.NoWeight:
		i.Weight = 0
	case i.Weight == 0:
		i.Weight = 1
	}
	if i.Health == "" {
		i.Health = Passing
	}
	meta := maps.Clone(i.Meta)
	if meta == nil {
		meta = make(map[string]string)
	}
	if i.MeshPort != 0 {
		meta["mesh_port"] = strconv.Itoa(i.MeshPort)
	}
	i.Meta = meta
	return i
}

// Registry is a catalog that instances can be put into.
type Registry interface {
	Register(Instance) error
	SetHealth(id string, h Health) error
	Deregister(id string) error
	Close() error
}

// FileCatalog writes the file that `--catalog file:PATH` reads. Each change
// replaces it by rename.
type FileCatalog struct {
	Path string

	mu        sync.Mutex
	instances map[string]Instance
}

// NewFileCatalog writes an empty catalog.
func NewFileCatalog(path string) (*FileCatalog, error) {
	f := &FileCatalog{Path: path, instances: make(map[string]Instance)}
	return f, f.write()
}

// Register implements Registry.
func (f *FileCatalog) Register(i Instance) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.instances[i.ID] = i.withDefaults()
	return f.write()
}

// SetHealth implements Registry.
func (f *FileCatalog) SetHealth(id string, h Health) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	i, ok := f.instances[id]
	if !ok {
		return fmt.Errorf("file catalog: %s is not registered", id)
	}
	i.Health = h
	f.instances[id] = i
	return f.write()
}

// Deregister implements Registry.
func (f *FileCatalog) Deregister(id string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.instances, id)
	return f.write()
}

// Close implements Registry. The file stays.
func (f *FileCatalog) Close() error { return nil }

type fileEntry struct {
	ID         string            `yaml:"id"`
	Address    string            `yaml:"address"`
	Port       int               `yaml:"port"`
	Weight     int               `yaml:"weight"`
	Health     Health            `yaml:"health"`
	Datacenter string            `yaml:"datacenter,omitempty"`
	Zone       string            `yaml:"zone,omitempty"`
	Tags       []string          `yaml:"tags,omitempty"`
	Meta       map[string]string `yaml:"meta,omitempty"`
}

func (f *FileCatalog) write() error {
	services := make(map[string][]fileEntry)
	for _, id := range slices.Sorted(maps.Keys(f.instances)) {
		i := f.instances[id]
		services[i.Service] = append(services[i.Service], fileEntry{
			ID: i.ID, Address: i.Address, Port: i.Port, Weight: i.Weight, Health: i.Health, Datacenter: i.Datacenter, Zone: i.Zone, Tags: i.Tags, Meta: i.Meta,
		})
	}
	text, err := yaml.Marshal(map[string]any{"services": services})
	if err != nil {
		return fmt.Errorf("file catalog: %w", err)
	}
	return WriteFile(f.Path, string(text))
}

// WriteFile replaces a file by rename, as an editor does when it saves.
func WriteFile(path, text string) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	_, err = tmp.WriteString(text)
	if closed := tmp.Close(); err == nil {
		err = closed
	}
	if err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		_ = os.Remove(tmp.Name())
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}
