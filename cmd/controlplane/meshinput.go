package main

import (
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"datapunk.dev/controlplane/plan"
	"datapunk.dev/controlplane/policy"
	"datapunk.dev/controlplane/translate"
	"datapunk.dev/controlplane/watch"
	"datapunk.dev/controlplane/watch/file"
)

// meshInput is the flags of commands that read a mesh file, and a catalog beside it,
// without a control plane.
type meshInput struct {
	files       []string
	environment string
	catalog     string
}

func (i *meshInput) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringArrayVarP(&i.files, "file", "f", nil, "mesh file; several are merged left to right")
	f.StringVar(&i.environment, "environment", "", "environment of the mesh file to merge in")
}

// requiredFlags are those of a command that does nothing without a file.
func (i *meshInput) requiredFlags(cmd *cobra.Command) {
	i.flags(cmd)
	require(cmd, "file")
}

func (i *meshInput) catalogFlag(cmd *cobra.Command) {
	cmd.Flags().StringVar(&i.catalog, "catalog", "", "catalog that the mesh file stands beside: file:PATH")
}

// load reads the mesh file.
func (i *meshInput) load(files []string) (*policy.Mesh, error) {
	return policy.Load(files, policy.Options{Environment: i.environment, LookupEnv: os.LookupEnv})
}

// loadCatalog reads the catalog; without one it is empty.
func (i *meshInput) loadCatalog(cmd *cobra.Command) (*watch.Catalog, error) {
	if i.catalog == "" {
		return watch.NewCatalog(), nil
	}
	path, err := catalogPath(i.catalog)
	if err != nil {
		return nil, wrongUsage(cmd, err)
	}
	return file.Load(path)
}

// read returns what a control plane with that file and that catalog would make its
// configuration from, with the fleet of [plan.FleetOf].
func (i *meshInput) read(cmd *cobra.Command) (in translate.Input, err error) {
	if in.Mesh, err = i.load(i.files); err != nil {
		return in, err
	}
	if in.Catalog, err = i.loadCatalog(cmd); err != nil {
		return in, err
	}
	in.Catalog = selected(in.Mesh, in.Catalog)
	in.Fleet, in.Roots = plan.FleetOf(in.Catalog, in.Mesh), []byte(plan.Roots)
	return in, nil
}

// selected is what a mesh file that reads Consul has of a catalog in Consul's place.
func selected(m *policy.Mesh, catalog *watch.Catalog) *watch.Catalog {
	if m.Discovery.Method != "consul" {
		return catalog
	}
	return catalog.Select(watch.Selection(m.Discovery.Consul.Select))
}

// catalogPath is the path in file:PATH.
func catalogPath(flag string) (string, error) {
	path, ok := strings.CutPrefix(flag, "file:")
	if !ok || path == "" {
		return "", fmt.Errorf("--catalog %q: want file:PATH", flag)
	}
	return path, nil
}
