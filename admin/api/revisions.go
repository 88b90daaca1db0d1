package api

import "time"

// Revisions are the mesh files that were in force, newest first.
type Revisions struct {
	Revisions []Revision `json:"revisions"`
	Pinned    *Pin       `json:"pinned,omitempty"`
}

// Revision is one of them. A revision that came back is there twice.
type Revision struct {
	Number      int       `json:"number"` // in the order in which they came into force
	Revision    string    `json:"revision"`
	Kept        time.Time `json:"kept"`
	Environment string    `json:"environment,omitempty"`
	Files       []string  `json:"files"`
	InForce     bool      `json:"in_force"`
}

// RevisionFiles is a revision with what stands in it.
type RevisionFiles struct {
	Revision string `json:"revision"`
	Files    []File `json:"files"`
}

// File is a file of operators, as written.
type File struct {
	Name    string `json:"name"`
	Content string `json:"content"`
}

// Diff is what stands otherwise in one revision than in another.
type Diff struct {
	From string `json:"from"`
	To   string `json:"to"`
	Diff string `json:"diff"` // unified
}
