package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/encoding/protojson"

	"datapunk.dev/controlplane/plan"
	"datapunk.dev/controlplane/resource"
	"datapunk.dev/controlplane/translate"
)

// rendered is one resource of a proxy, in the words of Envoy's API.
type rendered struct {
	Type    string          `json:"type"`
	Name    string          `json:"name"`
	Version string          `json:"version"`
	Body    json.RawMessage `json:"body"`
}

func newRenderCommand() *cobra.Command {
	var in meshInput
	var service, kind string
	cmd := &cobra.Command{
		Use:   "render -f FILE [-f FILE…] --service S [--catalog file:PATH] [--type T]",
		Short: "Print the Envoy resources that a service's proxy would be served",
		Long: "render makes of a mesh file and a catalog what the first sidecar of a service would be served. No authority is\n" +
			"asked: the roots are words, and the proxy's own certificate is left out.",
		Example: "  controlplane render -f new.yaml --catalog file:catalog.yaml --service lake_service --type cluster",
		Args:    cobra.NoArgs,
	}
	out := outputFlag(cmd, "yaml", "json")
	in.requiredFlags(cmd)
	in.catalogFlag(cmd)
	cmd.Flags().StringVar(&service, "service", "", "service whose proxy is meant")
	cmd.Flags().StringVar(&kind, "type", "", fmt.Sprintf("only resources of a type, one of %v", allTypes()))
	require(cmd, "service")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		all, err := in.render(cmd, service, kind)
		if err != nil {
			return shown(cmd.ErrOrStderr(), err)
		}
		return out.write(cmd.OutOrStdout(), all, nil)
	}
	return cmd
}

func (i *meshInput) render(cmd *cobra.Command, service, kind string) ([]rendered, error) {
	if kind != "" && !slices.ContainsFunc(allTypes(), func(t resource.Type) bool { return t.String() == kind }) {
		return nil, wrongUsage(cmd, fmt.Errorf("--type %s: want one of %v", kind, allTypes()))
	}
	in, err := i.read(cmd)
	if err != nil {
		return nil, err
	}
	s := translate.Translate(nil, in)
	for profile := range s.Input.Fleet.Profiles() {
		if profile.Service != service {
			continue
		}
		view := s.View(profile)
		sets := []*resource.Sets{&view.Own}
		if scope := s.Scope(view.Scope); scope != nil {
			sets = append(sets, &scope.Sets)
		}
		return renderSets(sets, kind)
	}
	return nil, errors.New("the mesh has no service " + service)
}

func allTypes() []resource.Type {
	all := make([]resource.Type, 0, resource.NumTypes)
	for t := range resource.NumTypes {
		all = append(all, t)
	}
	return all
}

func renderSets(sets []*resource.Sets, kind string) ([]rendered, error) {
	all := []rendered{}
	for _, t := range allTypes() {
		if kind != "" && t.String() != kind {
			continue
		}
		for _, s := range sets {
			if s[t] == nil {
				continue
			}
			for r := range s[t].All() {
				m, err := plan.Message(r)
				if err != nil {
					return nil, err
				}
				body, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(m)
				if err != nil {
					return nil, fmt.Errorf("%s %s: %w", t, r.Name, err)
				}
				all = append(all, rendered{t.String(), r.Name, r.Version, body})
			}
		}
	}
	return all, nil
}
