package sidecar

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials"
)

// dialTime is how long one control plane may take to be connected to, while there may
// be others.
const dialTime = 2 * time.Second

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

// dialAny returns a connection to one of them, whoever answers first of them in any
// order. The error has what each said.
func (p *planes) dialAny(ctx context.Context) (*grpc.ClientConn, error) {
	var errs []error
	for _, i := range rand.Perm(len(p.addresses)) {
		conn, err := p.dial(p.addresses[i])
		if err == nil {
			conn.Connect()
			within, cancel := context.WithTimeout(ctx, dialTime)
			err = ready(within, conn)
			cancel()
			if err == nil {
				return conn, nil
			}
			_ = conn.Close()
		}
		errs = append(errs, fmt.Errorf("%s: %w", p.addresses[i], err))
	}
	return nil, errors.Join(errs...)
}

// ready waits until a connection is up, or has failed once.
func ready(ctx context.Context, conn *grpc.ClientConn) error {
	for {
		s := conn.GetState()
		switch s {
		case connectivity.Ready:
			return nil
		case connectivity.TransientFailure, connectivity.Shutdown:
			return errors.New("it does not answer")
		}
		if !conn.WaitForStateChange(ctx, s) {
			return ctx.Err()
		}
	}
}

func (p *planes) dial(address string) (*grpc.ClientConn, error) {
	target := address
	if !strings.HasPrefix(address, "unix:") {
		target = "passthrough:///" + address
	}
	return grpc.NewClient(target, grpc.WithTransportCredentials(p.creds), grpc.WithNoProxy())
}

func (p *planes) at(ctx context.Context, address string, call func(context.Context, grpc.ClientConnInterface) error) error {
	conn, err := p.dial(address)
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
