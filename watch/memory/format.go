package memory

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"

	"datapunk.dev/controlplane/watch"
)

// instance is an instance in the words of a file catalog.
type instance struct {
	ID         string            `json:"id"`
	Address    string            `json:"address"`
	Port       uint16            `json:"port"`
	Weight     uint32            `json:"weight"`
	Health     string            `json:"health"`
	Datacenter string            `json:"datacenter,omitempty"`
	Zone       string            `json:"zone,omitempty"`
	Tags       []string          `json:"tags,omitempty"`
	Meta       map[string]string `json:"meta,omitempty"`
	NodeMeta   map[string]string `json:"node_meta,omitempty"`
}

// encode writes a catalog in the words of a file catalog: JSON is YAML, and an
// instance has a line of its own.
func encode(c *watch.Catalog) ([]byte, error) {
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
	return body.Bytes(), nil
}

func encodeService(to *bytes.Buffer, s *watch.Service) error {
	name, err := text(s.Name)
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
			ID: i.ID, Address: i.Host, Port: i.Port, Weight: i.Weight, Health: i.Health.String(),
			Datacenter: i.Datacenter, Zone: i.Zone, Tags: i.Tags, Meta: i.Meta, NodeMeta: i.NodeMeta,
		}
		if i.Host == "" {
			out.Address = i.Address.String()
		}
		// Consul has one id on two nodes; in a file each is one of its own.
		for m := n; ids[out.ID]; m++ {
			out.ID = i.ID + "#" + strconv.Itoa(m)
		}
		ids[out.ID] = true
		line, err := text(out)
		if err != nil {
			return err
		}
		fmt.Fprintf(to, "    - %s\n", line)
	}
	return nil
}

// text is JSON that is YAML too, to which a few of its characters are line breaks, a
// mark at the beginning of a file, or nothing that may stand in one.
func text(v any) ([]byte, error) {
	data, err := json.Marshal(v)
	for _, c := range []string{"\u0085", "\ufeff", "\ufffe", "\uffff"} {
		data = bytes.ReplaceAll(data, []byte(c), fmt.Appendf(nil, `\u%04x`, []rune(c)[0]))
	}
	return data, err
}
