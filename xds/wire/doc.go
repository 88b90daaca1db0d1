// Package wire is the xDS protocol as bytes: it decodes requests and encodes
// responses, of both variants. It knows resources, and nothing of streams or of what
// a client has.
//
// The generated messages are not used. Of a request little is read, and an Envoy may
// send its node, of 60 KB, with each; a response is put together from resources that
// were encoded once for all streams.
package wire
