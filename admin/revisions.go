package admin

import (
	"datapunk.dev/controlplane/admin/api"
)

// revisionRoutes are the mesh files that were in force.
func revisionRoutes(src Sources) []route {
	return []route{
		read("/revisions", "The mesh files that were in force, newest first", func(*call) (api.Revisions, error) {
			return src.Revisions()
		}),
		read("/revisions/{revision}", "What stands in a revision of the mesh file", func(c *call) (api.RevisionFiles, error) {
			is, err := src.Revision(c.PathValue("revision"))
			return is, failedIf(api.NotFound, err)
		}),
		read("/revisions/{revision}/diff", "What stands otherwise in a revision than in that in force, or in another one", func(c *call) (api.Diff, error) {
			is, err := src.Diff(c.query("against"), c.PathValue("revision"))
			return is, failedIf(api.NotFound, err)
		}, param{name: "against", says: "The other one; that in force if it is not given."}),
		act("/revisions/{revision}/pin", "Serve a revision until it is released, whatever the file says", func(c *call, _ none) (api.Done, error) {
			said, err := src.Pin(c.who, c.PathValue("revision"))
			if err != nil {
				return api.Done{}, failed(api.Conflict, err)
			}
			return api.Done{Done: said}, nil
		}),
		act("/revisions/{revision}/release", "Serve what stands in the mesh file again, and not the revision that is pinned", func(c *call, _ none) (api.Done, error) {
			if err := src.Release(c.who, c.PathValue("revision")); err != nil {
				return api.Done{}, failed(api.Conflict, err)
			}
			return api.Done{Done: "the mesh file is served again"}, nil
		}),
	}
}
