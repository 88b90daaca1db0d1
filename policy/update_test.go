package policy

import "flag"

// Update has the tests of this package write what is made of the table of
// keys, and the golden files, in place of comparing them:
//
//	go test ./policy -update
var Update = flag.Bool("update", false, "write what is generated, and the golden files")
