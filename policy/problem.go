package policy

// Problem is one thing that is wrong with a file, or worth knowing of it.
type Problem struct {
	Source  Source
	Code    string // stable, see docs/mesh-file.md
	Key     string // mesh.circuit_breakers.default
	Message string
	Hint    string // did you mean, or what to write instead; may be empty
	Excerpt string // the line of the file
	Width   int    // how many columns the caret covers
}
