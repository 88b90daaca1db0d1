package file

import "datapunk.dev/controlplane/watch"

// Load returns the catalog of a file, for those who look at it once. The error is
// [yamlfile.Problems] unless the file could not be read.
func Load(path string) (*watch.Catalog, error) {
	data, _, err := read(path)
	if err != nil {
		return nil, err
	}
	services, err := Parse(path, data)
	if err != nil {
		return nil, err
	}
	return watch.NewCatalog().Update(services, nil), nil
}
