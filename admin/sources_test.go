package admin

import (
	"context"
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"

	"datapunk.dev/controlplane/admin/api"
	"datapunk.dev/controlplane/xds"
)

var discard = slog.New(slog.DiscardHandler)

func statusOf(node string) xds.ProxyStatus { return xds.ProxyStatus{Node: node, Service: "lake"} }

// everySource has something to say to each route, in each field.
func everySource() Sources {
	return Sources{
		Metrics: prometheus.NewRegistry(), Listener: loopback, Authenticate: operators,
		Readiness: filled[Readiness],
		Fleet: func(context.Context) (Fleet, error) {
			return Fleet{Proxies: []xds.ProxyStatus{filled[xds.ProxyStatus]()}, Unanswered: filled[[]api.Unanswered]()}, nil
		},
		Status:        filled[api.Status],
		Services:      filled[[]string],
		Resources:     func(string, string) ([]api.Resource, error) { return filled[[]api.Resource](), nil },
		Describe:      func(string, string) (api.Description, error) { return filled[api.Description](), nil },
		Why:           func(api.Call) (api.Verdict, error) { return filled[api.Verdict](), nil },
		Certificates:  func() (api.Certificates, error) { return filled[api.Certificates](), nil },
		Rotate:        func(api.Rotate) (int, error) { return 1, nil },
		Events:        func(string, int) (api.Events, <-chan struct{}) { return filled[api.Events](), nil },
		Revisions:     func() (api.Revisions, error) { return filled[api.Revisions](), nil },
		Revision:      func(string) (api.RevisionFiles, error) { return filled[api.RevisionFiles](), nil },
		Diff:          func(string, string) (api.Diff, error) { return filled[api.Diff](), nil },
		Pin:           func(api.Caller, string) (string, error) { return "", nil },
		Release:       func(api.Caller, string) error { return nil },
		Plan:          func(context.Context, []api.File) (api.Plan, error) { return filled[api.Plan](), nil },
		Checks:        func(context.Context) api.Checks { return filled[api.Checks]() },
		Findings:      func() (api.Findings, error) { return filled[api.Findings](), nil },
		Registrations: filled[api.Registrations],
		Replicas:      filled[api.Replicas],
		Removals:      filled[api.Removals],
		Roots:         filled[api.Roots],
		StepRoot:      func(context.Context, string) error { return nil },
		DecideRemoval: func(context.Context, string, bool) error { return nil },
	}
}
