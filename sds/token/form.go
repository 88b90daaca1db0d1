package token

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// The form of a token, before anything of it is believed. The JWT library
// ignores what it does not know, takes the last of two members of one name, and
// takes names in any case; another reader of the same token may do otherwise.

// headerNames are the members of a header that mean something here. With any
// other one ("crit", which says that what it names must be understood, "b64",
// "zip", "jwk", …) the token says something that we would not heed.
var headerNames = []string{"alg", "kid", "typ"}

// claimNames are the claims that mean something here. Others are ignored, as
// RFC 7519 wants it.
var claimNames = []string{"iss", "sub", "aud", "exp", "nbf", "iat", "jti", "node"}

// checkForm refuses a token that two readers could understand differently.
func checkForm(raw string) error {
	parts := strings.Split(raw, ".")
	if len(parts) != 3 {
		return fmt.Errorf("a token has three parts, this one has %d", len(parts))
	}
	for i, part := range parts {
		if part == "" {
			return errors.New("a part of the token is empty")
		}
		// The decoder skips line breaks.
		if strings.ContainsAny(part, "\r\n") {
			return fmt.Errorf("part %d of the token has a line break", i+1)
		}
	}
	header, err := members(parts[0])
	if err != nil {
		return fmt.Errorf("token header: %w", err)
	}
	for _, name := range header {
		if !slices.Contains(headerNames, name.text) {
			return fmt.Errorf("token header: %q is not understood", name.text)
		}
		if name.text == "typ" && name.value != "JWT" {
			return errors.New("token header: typ is not JWT")
		}
	}
	payload, err := members(parts[1])
	if err != nil {
		return fmt.Errorf("token claims: %w", err)
	}
	for _, name := range payload {
		if i := slices.IndexFunc(claimNames, func(n string) bool { return strings.EqualFold(n, name.text) }); i >= 0 && claimNames[i] != name.text {
			return fmt.Errorf("token claims: %q is not %q", name.text, claimNames[i])
		}
	}
	return nil
}

// member is one of an object.
type member struct {
	text  string
	value string // if that is a string
}

// members returns those of the JSON object that a part of a token encodes. No
// two have the same name.
func members(part string) ([]member, error) {
	data, err := base64.RawURLEncoding.Strict().DecodeString(part)
	if err != nil {
		return nil, errors.New("not base64url")
	}
	d := json.NewDecoder(bytes.NewReader(data))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return nil, errors.New("not a JSON object")
	}
	var list []member
	for d.More() {
		t, err := d.Token()
		name, ok := t.(string)
		if err != nil || !ok {
			return nil, errors.New("not a JSON object")
		}
		if slices.ContainsFunc(list, func(m member) bool { return m.text == name }) {
			return nil, fmt.Errorf("%q is there twice", name)
		}
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return nil, errors.New("not a JSON object")
		}
		m := member{text: name}
		_ = json.Unmarshal(value, &m.value) // anything else leaves it empty
		list = append(list, m)
	}
	if _, err := d.Token(); err != nil {
		return nil, errors.New("not a JSON object")
	}
	if d.More() {
		return nil, errors.New("more than a JSON object")
	}
	return list, nil
}
