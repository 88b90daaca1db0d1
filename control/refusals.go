package control

import (
	"path/filepath"
	"time"

	"datapunk.dev/controlplane/atomicfile"
)

const (
	refusalsFile = "refusals.yaml"
	// maxRefusals bounds what is read of it: the contents are 64 MB at most, in base64.
	maxRefusals = 192 << 20
)

// refusals keeps on disk what proxies refused, and what they had before, so that a
// proxy that is new after a restart is not sent it.
type refusals struct {
	file   atomicfile.Sealed
	keeper *atomicfile.Keeper
}

func newRefusals(dir, mesh string) *refusals {
	return &refusals{file: atomicfile.Sealed{
		Path:  filepath.Join(dir, refusalsFile),
		Title: "# What proxies refused and what they had before, kept by the control plane: ", Format: 1, Mesh: mesh, MaxSize: maxRefusals,
	}}
}

// recall has an xDS server take what is on disk, and keeps what it has from then on. A
// file that cannot be believed is set aside, and named in the error.
func (r *refusals) recall(of func() ([]byte, error), take func([]byte) error) error {
	r.keeper = atomicfile.NewKeeper(r.file.Path, func(bool) ([]byte, func(), error) {
		body, err := of()
		if err != nil {
			return nil, nil, err
		}
		data, err := r.file.Seal(body, time.Now())
		return data, func() {}, err
	})
	return r.file.Load(func(body []byte, _ time.Time) error { return take(body) })
}

// changed says that there is something else to keep. It does not wait.
func (r *refusals) changed() {
	if r != nil && r.keeper != nil {
		r.keeper.Changed()
	}
}

// failures returns how many writes have failed, and why the file is not as it should
// be; nil: it is, or there is none.
func (r *refusals) failures() (count uint64, last error) {
	if r == nil {
		return 0, nil
	}
	return r.keeper.Failures()
}
