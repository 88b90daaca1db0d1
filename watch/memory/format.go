package memory

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"datapunk.dev/controlplane/watch"
	"datapunk.dev/controlplane/watch/file"
)

// formatVersion is raised when a control plane of before could not read the file.
const formatVersion = 1

// seal is the first line: what the file is, and what the rest of it must be.
type seal struct {
	Format int       `json:"format"`
	Mesh   string    `json:"mesh"` // mesh.name
	Known  time.Time `json:"known"`
	SHA256 string    `json:"sha256"` // of all after the line
}

const sealPrefix = "# The last good catalog, kept by the control plane: "

// instance is an instance in the words of a file catalog.
type instance struct {
	ID      string            `json:"id"`
	Address string            `json:"address"`
	Port    uint16            `json:"port"`
	Weight  uint32            `json:"weight"`
	Health  string            `json:"health"`
	Zone    string            `json:"zone,omitempty"`
	Tags    []string          `json:"tags,omitempty"`
	Meta    map[string]string `json:"meta,omitempty"`
}

// encode writes a catalog in the words of a file catalog: JSON is YAML, and an
// instance has a line of its own.
func encode(c *watch.Catalog, mesh string, known time.Time) ([]byte, error) {
	var body bytes.Buffer
	if c.Len() == 0 {
		body.WriteString("services: {}\n")
	} else {
		body.WriteString("services:\n")
	}
	for s := range c.Services() {
		if err := encodeService(&body, s); err != nil {
			return nil, err
		}
	}
	sum := sha256.Sum256(body.Bytes())
	head, err := json.Marshal(seal{Format: formatVersion, Mesh: mesh, Known: known.UTC().Truncate(time.Second), SHA256: hex.EncodeToString(sum[:])})
	if err != nil {
		return nil, err
	}
	return append([]byte(sealPrefix+string(head)+"\n"), body.Bytes()...), nil
}

func encodeService(to *bytes.Buffer, s *watch.Service) error {
	name, err := json.Marshal(s.Name)
	if err != nil {
		return err
	}
	if len(s.Instances) == 0 {
		fmt.Fprintf(to, "  %s: []\n", name)
		return nil
	}
	fmt.Fprintf(to, "  %s:\n", name)
	ids := make(map[string]bool, len(s.Instances))
	for n, i := range s.Instances {
		out := instance{
			ID: i.ID, Address: i.Host, Port: i.Port, Weight: i.Weight, Health: i.Health.String(), Zone: i.Zone, Tags: i.Tags, Meta: i.Meta,
		}
		if i.Host == "" {
			out.Address = i.Address.String()
		}
		// Consul has one id on two nodes; in a file each is one of its own.
		for ids[out.ID] {
			out.ID = i.ID + "#" + strconv.Itoa(n)
		}
		ids[out.ID] = true
		line, err := json.Marshal(out)
		if err != nil {
			return err
		}
		fmt.Fprintf(to, "    - %s\n", line)
	}
	return nil
}

// decode reads what encode wrote, if it still is that.
func decode(name string, data []byte) (*Kept, error) {
	line, err := bufio.NewReader(bytes.NewReader(data)).ReadString('\n')
	if err != nil {
		return nil, errors.New("it has no first line")
	}
	text, ok := strings.CutPrefix(line, sealPrefix)
	if !ok {
		return nil, errors.New("its first line is not the control plane's")
	}
	var s seal
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		return nil, fmt.Errorf("its first line: %w", err)
	}
	if s.Format != formatVersion {
		return nil, fmt.Errorf("its format is %d, and %d is read here", s.Format, formatVersion)
	}
	if sum := sha256.Sum256(data[len(line):]); hex.EncodeToString(sum[:]) != s.SHA256 {
		return nil, errors.New("it is not what was kept: its checksum is another one")
	}
	services, err := file.Parse(name, data)
	if err != nil {
		return nil, err
	}
	return &Kept{Catalog: watch.NewCatalog().Update(services, nil), Known: s.Known, Mesh: s.Mesh}, nil
}
