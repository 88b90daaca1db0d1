package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"
)

// The media types of the OCI's image specification.
const (
	typeIndex    = "application/vnd.oci.image.index.v1+json"
	typeManifest = "application/vnd.oci.image.manifest.v1+json"
	typeConfig   = "application/vnd.oci.image.config.v1+json"
	typeLayer    = "application/vnd.oci.image.layer.v1.tar+gzip"
)

type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int               `json:"size"`
	Platform    *platform         `json:"platform,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

type platform struct {
	Architecture string `json:"architecture"`
	OS           string `json:"os"`
}

type manifest struct {
	SchemaVersion int          `json:"schemaVersion"`
	MediaType     string       `json:"mediaType"`
	Config        descriptor   `json:"config"`
	Layers        []descriptor `json:"layers"`
}

type index struct {
	SchemaVersion int               `json:"schemaVersion"`
	MediaType     string            `json:"mediaType"`
	Manifests     []descriptor      `json:"manifests"`
	Annotations   map[string]string `json:"annotations,omitempty"`
}

type imageConfig struct {
	Created time.Time `json:"created"`
	platform
	Config  runConfig `json:"config"`
	RootFS  rootFS    `json:"rootfs"`
	History []history `json:"history"`
}

// runConfig is what deploy/image/Dockerfile says.
type runConfig struct {
	User         string              `json:"User"`
	ExposedPorts map[string]struct{} `json:"ExposedPorts"`
	Env          []string            `json:"Env"`
	Entrypoint   []string            `json:"Entrypoint"`
	Cmd          []string            `json:"Cmd"`
	Volumes      map[string]struct{} `json:"Volumes"`
	WorkingDir   string              `json:"WorkingDir"`
	Labels       map[string]string   `json:"Labels"`
}

type rootFS struct {
	Type    string   `json:"type"`
	DiffIDs []string `json:"diff_ids"`
}

type history struct {
	Created   time.Time `json:"created"`
	CreatedBy string    `json:"created_by"`
}

// stateDir is what the image's user may write.
const stateDir = "/var/lib/controlplane"

func (l *layout) config() runConfig {
	return runConfig{
		User:         fmt.Sprintf("%d:%d", userID, userID),
		ExposedPorts: map[string]struct{}{"18000/tcp": {}, "19000/tcp": {}},
		Env:          []string{"PATH=/usr/bin", "CONTROLPLANE_DATA_DIR=" + stateDir},
		Entrypoint:   []string{"/usr/bin/controlplane"},
		Cmd:          []string{"serve", "-f", "/etc/controlplane/mesh.yaml"},
		Volumes:      map[string]struct{}{stateDir: {}},
		WorkingDir:   stateDir,
		Labels: map[string]string{
			"org.opencontainers.image.title":    "controlplane",
			"org.opencontainers.image.version":  l.version,
			"org.opencontainers.image.licenses": "Apache-2.0",
		},
	}
}

// layout is an image layout in the making.
type layout struct {
	version string
	created time.Time
	blobs   map[string][]byte // by digest, in hex
	images  []descriptor      // one an architecture
}

func newLayout(version string, created time.Time) *layout {
	return &layout{version: version, created: created, blobs: make(map[string][]byte)}
}

func (l *layout) blob(mediaType string, data []byte) descriptor {
	sum := sha256.Sum256(data)
	name := hex.EncodeToString(sum[:])
	l.blobs[name] = data
	return descriptor{MediaType: mediaType, Digest: "sha256:" + name, Size: len(data)}
}

func (l *layout) json(mediaType string, v any) (descriptor, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return descriptor{}, err
	}
	return l.blob(mediaType, data), nil
}

// add adds the image of one architecture: a single layer.
func (l *layout) add(arch, root string) error {
	var plain bytes.Buffer
	if err := packRoot(&plain, root, l.created); err != nil {
		return err
	}
	sum := sha256.Sum256(plain.Bytes())
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	if _, err := io.Copy(z, &plain); err != nil {
		return err
	}
	if err := z.Close(); err != nil {
		return err
	}
	p := platform{Architecture: arch, OS: "linux"}
	config, err := l.json(typeConfig, imageConfig{
		Created: l.created, platform: p, Config: l.config(),
		RootFS:  rootFS{Type: "layers", DiffIDs: []string{"sha256:" + hex.EncodeToString(sum[:])}},
		History: []history{{Created: l.created, CreatedBy: "deploy/image/rootfs.sh"}},
	})
	if err != nil {
		return err
	}
	m, err := l.json(typeManifest, manifest{SchemaVersion: 2, MediaType: typeManifest, Config: config, Layers: []descriptor{l.blob(typeLayer, packed.Bytes())}})
	if err != nil {
		return err
	}
	m.Platform = &p
	l.images = append(l.images, m)
	return nil
}

// write writes the archive: the layout's files, sorted.
func (l *layout) write(w io.Writer) error {
	all, err := l.json(typeIndex, index{SchemaVersion: 2, MediaType: typeIndex, Manifests: l.images})
	if err != nil {
		return err
	}
	all.Annotations = map[string]string{
		"org.opencontainers.image.ref.name": l.version,
		"io.containerd.image.name":          "controlplane:" + l.version, // by which `docker load` names it
	}
	top, err := json.Marshal(index{SchemaVersion: 2, MediaType: typeIndex, Manifests: []descriptor{all}})
	if err != nil {
		return err
	}
	files := map[string][]byte{"oci-layout": []byte(`{"imageLayoutVersion":"1.0.0"}`), "index.json": top}
	for name, data := range l.blobs {
		files["blobs/sha256/"+name] = data
	}
	t := tar.NewWriter(w)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		h := &tar.Header{Name: name, Mode: 0o644, Size: int64(len(files[name])), ModTime: l.created, Format: tar.FormatPAX}
		if err := t.WriteHeader(h); err != nil {
			return err
		}
		if _, err := t.Write(files[name]); err != nil {
			return err
		}
	}
	return t.Close()
}
