package yamlfile

// Code names a kind of problem. A code never changes its meaning and is never
// used again: MC1xxx is an error, MC2xxx a warning. docs/errors.md explains
// each. Those of the mesh file alone are in package policy.
type Code string

// What can be wrong with any file.
const (
	CodeSyntax       Code = "MC1001" // not YAML
	CodeDocuments    Code = "MC1002" // more than one document
	CodeUnknownKey   Code = "MC1003"
	CodeDuplicateKey Code = "MC1004"
	CodeType         Code = "MC1005" // a list where a map is wanted, a word where a number is
	CodeMissing      Code = "MC1006" // a key that must be there
	CodeAlias        Code = "MC1008" // an alias of itself, a merge of what is no map, a tree too large
	CodeRange        Code = "MC1102" // a number out of its range
	CodeWord         Code = "MC1103" // not one of the words that the key takes
	CodeValue        Code = "MC1104" // not what the key takes: a host, a path, a port
)
