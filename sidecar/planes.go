package sidecar

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
)

// planes are the control planes that a machine knows of.
type planes struct {
	addresses []string
	creds     credentials.TransportCredentials
}

// any makes a call at one after the other, beginning anywhere, until one
// succeeds. The error has what each said.
func (p *planes) any(ctx context.Context, call func(context.Context, grpc.ClientConnInterface) error) error {
	var errs []error
	for _, i := range rand.Perm(len(p.addresses)) {
		if err := p.at(ctx, p.addresses[i], call); err != nil {
			errs = append(errs, err)
			continue
		}
		return nil
	}
	return errors.Join(errs...)
}

// each makes a call at all of them at once: at each address that a name has.
func (p *planes) each(ctx context.Context, call func(context.Context, grpc.ClientConnInterface) error) error {
	var mu sync.Mutex
	var errs []error
	var calls sync.WaitGroup
	for _, address := range p.resolved(ctx) {
		calls.Go(func() {
			if err := p.at(ctx, address, call); err != nil {
				mu.Lock()
				defer mu.Unlock()
				errs = append(errs, err)
			}
		})
	}
	calls.Wait()
	return errors.Join(errs...)
}

func (p *planes) at(ctx context.Context, address string, call func(context.Context, grpc.ClientConnInterface) error) error {
	target := address
	if !strings.HasPrefix(address, "unix:") {
		target = "passthrough:///" + address
	}
	conn, err := grpc.NewClient(target, grpc.WithTransportCredentials(p.creds), grpc.WithNoProxy())
	if err == nil {
		err = call(ctx, conn)
		_ = conn.Close()
	}
	if err != nil {
		return fmt.Errorf("%s: %w", address, err)
	}
	return nil
}

// resolved are the addresses with each name replaced by all that it stands for.
func (p *planes) resolved(ctx context.Context) []string {
	var out []string
	seen := make(map[string]bool)
	add := func(address string) {
		if !seen[address] {
			seen[address] = true
			out = append(out, address)
		}
	}
	for _, address := range p.addresses {
		host, port, err := net.SplitHostPort(address)
		if strings.HasPrefix(address, "unix:") || err != nil {
			add(address)
			continue
		}
		ips, err := net.DefaultResolver.LookupHost(ctx, host)
		if err != nil {
			add(address) // the call says what is wrong with it
			continue
		}
		for _, ip := range ips {
			add(net.JoinHostPort(ip, port))
		}
	}
	return out
}

// ownAddress is the address by which this machine reaches the first control
// plane that there is a route to. Nothing is sent for it.
func ownAddress(addresses []string) (string, error) {
	var errs []error
	for _, address := range addresses {
		if strings.HasPrefix(address, "unix:") {
			continue
		}
		conn, err := net.Dial("udp", address)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		_ = conn.Close()
		if at, ok := conn.LocalAddr().(*net.UDPAddr); ok {
			return at.AddrPort().Addr().Unmap().WithZone("").String(), nil
		}
	}
	return "", errors.Join(append(errs, errors.New("the control planes do not tell which address this machine has: say it with --address"))...)
}
