package token

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"

	"go.yaml.in/yaml/v4"

	"datapunk.dev/controlplane/atomicfile"
	"datapunk.dev/controlplane/resource"
)

// SecretName is the name of the secret in a token file, by which an Envoy's
// bootstrap refers to it.
const SecretName = "xds_token"

// bearer is the scheme of the authorization header.
const bearer = "Bearer "

// secretFile is what Envoy reads from a watched file: a discovery response of
// one Secret.
type secretFile struct {
	Resources []secretResource `json:"resources" yaml:"resources"`
}

type secretResource struct {
	Type    string        `json:"@type" yaml:"@type"`
	Name    string        `json:"name" yaml:"name"`
	Generic genericSecret `json:"generic_secret" yaml:"generic_secret"`
}

type genericSecret struct {
	Secret inlineString `json:"secret" yaml:"secret"`
}

type inlineString struct {
	Inline string `json:"inline_string" yaml:"inline_string"`
}

// WriteSecretFile writes a token as the file from which an Envoy takes its
// authorization header, readable by its owner alone. It renames it into place,
// which is what Envoy watches for. The content is YAML that is JSON too, since
// Envoy tells the two apart by the file's name.
func WriteSecretFile(path, token string) error {
	data, err := json.Marshal(secretFile{Resources: []secretResource{{
		Type:    resource.Secret.URL(),
		Name:    SecretName,
		Generic: genericSecret{Secret: inlineString{Inline: bearer + token}},
	}}})
	if err != nil {
		return err
	}
	if err := atomicfile.Write(path, append(data, '\n'), 0o600); err != nil {
		return fmt.Errorf("token file: %w", err)
	}
	return nil
}

// WriteFile writes a token as it is, readable by its owner alone: what
// gRPC's own xDS client and the JWT tools of others read.
func WriteFile(path, token string) error {
	if err := atomicfile.Write(path, []byte(token+"\n"), 0o600); err != nil {
		return fmt.Errorf("token file: %w", err)
	}
	return nil
}

// ReadFile returns the token of a file of either form, and the function
// that writes the next one in the same form. Errors do not quote the file.
func ReadFile(path string) (token string, write func(path, token string) error, err error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return "", nil, fmt.Errorf("token file: %w", err)
	}
	if token := strings.TrimSpace(string(data)); strings.Count(token, ".") == 2 && !strings.ContainsAny(token, " \t\r\n:{") {
		return token, WriteFile, nil
	}
	token, err = parseSecret(path, data)
	return token, WriteSecretFile, err
}

// ReadSecretFile returns the token of a file that [WriteSecretFile] wrote.
// Errors do not quote the file.
func ReadSecretFile(path string) (string, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("token file: %w", err)
	}
	return parseSecret(path, data)
}

func parseSecret(path string, data []byte) (string, error) {
	var f secretFile
	if err := yaml.Unmarshal(data, &f); err != nil {
		return "", fmt.Errorf("token file %s is not YAML", path)
	}
	for _, r := range f.Resources {
		if r.Name != SecretName {
			continue
		}
		if token, ok := strings.CutPrefix(r.Generic.Secret.Inline, bearer); ok && token != "" {
			return token, nil
		}
	}
	return "", fmt.Errorf("token file %s has no secret %q with a bearer token", path, SecretName)
}
