// Package yamlfile reads a file that operators write into a tree whose nodes
// know their place, and says what is wrong with it: a code that never changes
// its meaning, the line with a caret, and what to write instead. The mesh file
// and the file catalog are read with it.
package yamlfile
