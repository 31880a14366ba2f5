package telemetry

import (
	"errors"
	"strconv"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/referee-cri/referee/criimage"
	"github.com/referee-cri/referee/internal/registry"
)

const other = "other"

// Call counts a CRI call; see criimage.Options.Observe. A caller can name any
// method: those that CRI does not have are counted as one.
func (m *Metrics) Call(c criimage.Call) {
	method, path := methodName(c.Method), "proxy"
	if c.Ours {
		path = "local"
	}
	m.calls.WithLabelValues(method, status.Code(c.Err).String()).Inc()
	m.callTook.WithLabelValues(method, path).Observe(c.Took.Seconds())
}

func methodName(full string) string {
	service, method, _ := strings.Cut(strings.TrimPrefix(full, "/"), "/")
	var known grpc.ServiceDesc
	switch service {
	case runtime.ImageService_ServiceDesc.ServiceName:
		known = runtime.ImageService_ServiceDesc
	case runtime.RuntimeService_ServiceDesc.ServiceName:
		known = runtime.RuntimeService_ServiceDesc
	default:
		return other
	}
	for _, m := range known.Methods {
		if m.MethodName == method {
			return method
		}
	}
	for _, s := range known.Streams {
		if s.StreamName == method {
			return method
		}
	}
	return other
}

// Asked counts a request to a registry; see registry.Options.Observe.
func (m *Metrics) Asked(a registry.Asked) {
	endpoint := endpointOf(a.Path)
	m.asked.WithLabelValues(endpoint, answerOf(a.Err)).Inc()
	m.askedTook.WithLabelValues(endpoint).Observe(a.Took.Seconds())
	if endpoint == "referrers" {
		result := "ok"
		if a.Err != nil {
			result = "error"
		}
		m.referrersTook.WithLabelValues(result).Observe(a.Took.Seconds())
	}
}

// endpointOf is what a path of the distribution API is about; the ORAS endpoints
// for what is attached count as referrers.
func endpointOf(path string) string {
	first, _, _ := strings.Cut(path, "/")
	switch {
	case first == "manifests", first == "blobs", first == "referrers":
		return first
	case strings.Contains(path, "/referrers"):
		return "referrers"
	default:
		return other
	}
}

func answerOf(err error) string {
	if err == nil {
		return "ok"
	}
	if s, ok := errors.AsType[*registry.StatusError](err); ok && s.StatusCode >= 100 && s.StatusCode < 600 {
		return strconv.Itoa(s.StatusCode)
	}
	return "error"
}
