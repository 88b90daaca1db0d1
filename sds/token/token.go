// Package token is how proxies prove who they are to the xDS port: signed tokens
// bound to one service and one node, the files that hold them, and the service
// that exchanges a valid one for the next.
package token

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/golang-jwt/jwt/v5"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"datapunk.dev/controlplane/sds/identity"
)

const (
	// Audience is the "aud" of a token: it opens the xDS port and nothing else.
	Audience = "xds"
	// MaxTTL is the longest life of a token.
	MaxTTL = 366 * 24 * time.Hour

	minTTL       = time.Second
	maxBytes     = 4096
	maxNodeBytes = 256
	clockLeeway  = 60 * time.Second // for iat and nbf; exp has none
	maxUnix      = 1 << 40          // the year 36812
)

// Authority mints and verifies the tokens with which proxies prove who they are:
// ES256 JWTs bound to one service and one node. It is safe for concurrent use.
type Authority struct {
	td    spiffeid.TrustDomain
	key   *ecdsa.PrivateKey
	keyID string
	now   func() time.Time
}

// Claims is what a token proves.
type Claims struct {
	Service string
	Node    string // the node.id
	Issued  time.Time
	Expires time.Time // the stream must end then
	ID      string    // of the token, fit for logs
}

// claims is the payload of the JWT.
type claims struct {
	jwt.RegisteredClaims
	Node string `json:"node"`
	Role string `json:"role,omitempty"` // of an operator
}

// New returns the authority of a trust domain that signs with the key.
func New(td spiffeid.TrustDomain, key *ecdsa.PrivateKey) (*Authority, error) {
	if key.Curve != elliptic.P256() {
		return nil, errors.New("ES256 wants a key on P-256")
	}
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(der)
	return &Authority{td: td, key: key, keyID: hex.EncodeToString(sum[:8]), now: wallClock}, nil
}

// wallClock is the time of day without Go's monotonic reading, which stands
// still while a machine is suspended.
func wallClock() time.Time { return time.Now().Round(0) }

// Check says whether a token of the node of a service could be minted.
func (t *Authority) Check(service, node string) error {
	if _, err := identity.ServiceID(t.td, service); err != nil {
		return err
	}
	return checkNode(node)
}

// Mint returns a token that lets the node act as the service for the lifetime,
// at most [MaxTTL].
func (t *Authority) Mint(service, node string, ttl time.Duration) (string, error) {
	id, err := identity.ServiceID(t.td, service)
	if err != nil {
		return "", err
	}
	if err := checkNode(node); err != nil {
		return "", err
	}
	if ttl < minTTL || ttl > MaxTTL {
		return "", fmt.Errorf("a token cannot live %s: want %s to %s", ttl, minTTL, MaxTTL)
	}
	return t.sign(id, Audience, node, ttl)
}

func (t *Authority) sign(id spiffeid.ID, audience, node string, ttl time.Duration) (string, error) {
	return t.signClaims(id, audience, claims{Node: node}, ttl)
}

func (t *Authority) signClaims(id spiffeid.ID, audience string, c claims, ttl time.Duration) (string, error) {
	tokenID := make([]byte, 16)
	if _, err := rand.Read(tokenID); err != nil {
		return "", err
	}
	now := t.now().Truncate(time.Second)
	c.RegisteredClaims = jwt.RegisteredClaims{
		Issuer:    t.td.Name(),
		Audience:  jwt.ClaimStrings{audience},
		Subject:   id.String(),
		IssuedAt:  jwt.NewNumericDate(now),
		NotBefore: jwt.NewNumericDate(now),
		ExpiresAt: jwt.NewNumericDate(now.Add(ttl)),
		ID:        base64.RawURLEncoding.EncodeToString(tokenID),
	}
	token := jwt.NewWithClaims(jwt.SigningMethodES256, c)
	token.Header["kid"] = t.keyID
	raw, err := token.SignedString(t.key)
	if err != nil {
		return "", fmt.Errorf("sign token: %w", err)
	}
	return raw, nil
}

func checkNode(node string) error {
	switch {
	case node == "":
		return errors.New("node is empty")
	case len(node) > maxNodeBytes:
		return fmt.Errorf("node has %d bytes, the limit is %d", len(node), maxNodeBytes)
	case !utf8.ValidString(node) || strings.ContainsFunc(node, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return fmt.Errorf("node %q has control characters", node)
	}
	return nil
}

// Verify returns what a token proves now, or why it proves nothing. The reason
// is for our log: a client is told only that it was refused.
func (t *Authority) Verify(raw string) (Claims, error) {
	c, id, err := t.parse(raw, Audience)
	if err != nil {
		return Claims{}, err
	}
	service := strings.TrimPrefix(id.Path(), "/")
	if want, err := identity.ServiceID(t.td, service); err != nil {
		return Claims{}, fmt.Errorf("token subject: %w", err)
	} else if want != id {
		return Claims{}, fmt.Errorf("token subject %s is of another trust domain", id)
	}
	if err := checkNode(c.Node); err != nil {
		return Claims{}, fmt.Errorf("token: %w", err)
	}
	return Claims{Service: service, Node: c.Node, Issued: c.IssuedAt.Time, Expires: c.ExpiresAt.Time, ID: c.ID}, nil
}

// parse returns the claims of a token of ours that is for the audience and in force,
// and its subject.
func (t *Authority) parse(raw, audience string) (*claims, spiffeid.ID, error) {
	if len(raw) > maxBytes {
		return nil, spiffeid.ID{}, fmt.Errorf("token has %d bytes, the limit is %d", len(raw), maxBytes)
	}
	if err := checkForm(raw); err != nil {
		return nil, spiffeid.ID{}, err
	}
	var c claims
	_, err := jwt.NewParser(
		jwt.WithValidMethods([]string{jwt.SigningMethodES256.Alg()}),
		jwt.WithIssuer(t.td.Name()),
		jwt.WithAudience(audience),
		jwt.WithExpirationRequired(),
		jwt.WithNotBeforeRequired(),
		jwt.WithIssuedAt(),
		jwt.WithLeeway(clockLeeway),
		jwt.WithTimeFunc(t.now),
		jwt.WithStrictDecoding(),
	).ParseWithClaims(raw, &c, func(token *jwt.Token) (any, error) {
		if token.Header["kid"] != t.keyID {
			return nil, fmt.Errorf("key %v is not ours", token.Header["kid"])
		}
		return &t.key.PublicKey, nil
	})
	if err != nil {
		return nil, spiffeid.ID{}, err
	}
	if err := t.checkDates(&c); err != nil {
		return nil, spiffeid.ID{}, err
	}
	id, err := spiffeid.FromString(c.Subject)
	if err != nil {
		return nil, spiffeid.ID{}, fmt.Errorf("token subject: %w", err)
	}
	return &c, id, nil
}

// checkDates checks what the JWT library does not.
func (t *Authority) checkDates(c *claims) error {
	if c.IssuedAt == nil {
		return errors.New("token has no iat")
	}
	// A number beyond what a time can hold becomes a time long ago.
	for _, date := range []*jwt.NumericDate{c.IssuedAt, c.NotBefore, c.ExpiresAt} {
		if unix := date.Unix(); unix < 0 || unix > maxUnix {
			return errors.New("token has a date that is none")
		}
	}
	if expires := c.ExpiresAt.Time; !t.now().Before(expires) {
		return fmt.Errorf("token expired at %s", expires.UTC().Format(time.RFC3339))
	}
	if life := c.ExpiresAt.Sub(c.IssuedAt.Time); life <= 0 || life > MaxTTL {
		return fmt.Errorf("token lives %s, the limit is %s", life, MaxTTL)
	}
	return nil
}

// Lifetime reads when a token was issued and when it expires. It does not verify
// the token: that is for whoever holds one, and not for whoever is shown it.
func Lifetime(raw string) (issued, expires time.Time, err error) {
	var c claims
	if _, _, err := jwt.NewParser().ParseUnverified(raw, &c); err != nil {
		return issued, expires, errors.New("not a token")
	}
	if c.IssuedAt == nil || c.ExpiresAt == nil || !c.ExpiresAt.After(c.IssuedAt.Time) {
		return issued, expires, errors.New("the token does not say how long it lives")
	}
	return c.IssuedAt.Time, c.ExpiresAt.Time, nil
}

// Holder reads whose token it is, which like [Lifetime] does not verify it.
func Holder(raw string) (id spiffeid.ID, node string, err error) {
	var c claims
	if _, _, err := jwt.NewParser().ParseUnverified(raw, &c); err != nil {
		return id, "", errors.New("not a token")
	}
	if id, err = spiffeid.FromString(c.Subject); err != nil {
		return id, "", fmt.Errorf("token subject: %w", err)
	}
	return id, c.Node, nil
}
