package control

import (
	"context"
	"crypto/tls"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"datapunk.dev/controlplane/admin/api"
	"datapunk.dev/controlplane/sds/token"
)

// Operator says whose token it is that somebody shows to the operators' API; false:
// nobody's. A control plane without a data directory knows nobody.
func (p *Plane) Operator(raw string) (api.Caller, bool) {
	who, _, ok := p.operator(raw)
	return who, ok
}

// operator is Operator, and says when the token ends.
func (p *Plane) operator(raw string) (who api.Caller, expires time.Time, ok bool) {
	if p.tokens == nil {
		return api.Caller{}, time.Time{}, false
	}
	is, err := p.tokens.VerifyOperator(raw)
	if err != nil {
		p.ClientLog.Warn("a token for the admin address was refused", "err", err)
		return api.Caller{}, time.Time{}, false
	}
	role := api.Role(is.Role)
	if role != api.Read && role != api.Operate {
		return api.Caller{}, time.Time{}, false // of a later version
	}
	return api.Caller{Name: is.Name, Role: role}, is.Expires, true
}

// operatorCalls refuses a call to the xDS port that no operator makes, and says until when
// it may last.
func (p *Plane) operatorCalls(ctx context.Context) (expires time.Time, err error) {
	from, ok := peer.FromContext(ctx)
	if !ok {
		return time.Time{}, status.Error(codes.Unauthenticated, "who are you?")
	}
	if _, ok := from.AuthInfo.(credentials.TLSInfo); !ok {
		return time.Time{}, status.Error(codes.FailedPrecondition, "operators speak over TLS only")
	}
	raw, err := token.FromContext(ctx)
	if err != nil {
		return time.Time{}, status.Error(codes.Unauthenticated, err.Error())
	}
	who, expires, ok := p.operator(raw)
	if !ok || !who.Role.May(api.Read) {
		return time.Time{}, status.Error(codes.Unauthenticated, "this call takes a token of controlplane admin-token")
	}
	return expires, nil
}

// AdminTLS returns the TLS settings of the admin address: the certificate of the xDS port.
func (p *Plane) AdminTLS() *tls.Config {
	c := p.svids.ServerTLS()
	c.NextProtos = []string{"h2", "http/1.1"}
	return c
}

// Acted records what an operator did, or could not do.
func (p *Plane) Acted(who api.Caller, what string, err error) {
	e := api.Event{Kind: api.Acted, Operator: who.Name, Message: what}
	if err != nil {
		e.Kind, e.Message = api.ActFailed, what+": "+err.Error()
	}
	p.journal.Add(e)
	if err != nil {
		p.Log.Warn("an operator's act failed", "operator", who.Name, "what", what, "err", err)
		return
	}
	p.Log.Info("an operator acted", "operator", who.Name, "what", what)
}
