// Package collectortest is an OpenTelemetry collector for tests: it takes spans over
// OTLP, by HTTP and gRPC, and keeps them.
//
// Goroutines: the servers', which end with the test.
package collectortest

import (
	"context"
	"encoding/hex"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
)

// Span is what a test looks at.
type Span struct {
	Service           string // the resource's service.name
	Name              string
	Trace, ID, Parent string // hexadecimal; Parent is "" for a root
	Failed            bool
	Attributes        map[string]string // those that are texts
}

// Collector is a running collector.
type Collector struct {
	HTTP string // "http://127.0.0.1:1234", for OTEL_EXPORTER_OTLP_ENDPOINT
	GRPC string // the same for the protocol "grpc"

	collector.UnimplementedTraceServiceServer

	mu    sync.Mutex
	spans []Span
	texts []string
}

// Run starts a collector that ends with the test.
func Run(t *testing.T) *Collector {
	t.Helper()
	c := &Collector{}
	web := httptest.NewServer(http.HandlerFunc(c.serveHTTP))
	t.Cleanup(web.Close)
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	collector.RegisterTraceServiceServer(server, c)
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(listener) }) // ends with Stop
	t.Cleanup(func() { server.Stop(); serving.Wait() })
	c.HTTP, c.GRPC = web.URL, "http://"+listener.Addr().String()
	return c
}

func (c *Collector) serveHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	request := new(collector.ExportTraceServiceRequest)
	if err == nil {
		err = proto.Unmarshal(body, request)
	}
	if err != nil || r.URL.Path != "/v1/traces" {
		http.Error(w, "not a trace", http.StatusBadRequest)
		return
	}
	c.take(request)
	answer, _ := proto.Marshal(&collector.ExportTraceServiceResponse{}) // an empty message can be encoded
	w.Header().Set("Content-Type", "application/x-protobuf")
	_, _ = w.Write(answer)
}

// Export implements the collector's gRPC service.
func (c *Collector) Export(_ context.Context, request *collector.ExportTraceServiceRequest) (*collector.ExportTraceServiceResponse, error) {
	c.take(request)
	return &collector.ExportTraceServiceResponse{}, nil
}

func (c *Collector) take(request *collector.ExportTraceServiceRequest) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.texts = append(c.texts, prototext.Format(request))
	for _, resource := range request.GetResourceSpans() {
		service := ""
		for _, a := range resource.GetResource().GetAttributes() {
			if a.GetKey() == "service.name" {
				service = a.GetValue().GetStringValue()
			}
		}
		for _, scope := range resource.GetScopeSpans() {
			for _, s := range scope.GetSpans() {
				span := Span{
					Service: service, Name: s.GetName(), Failed: s.GetStatus().GetCode() == 2, // STATUS_CODE_ERROR
					Trace: hex.EncodeToString(s.GetTraceId()), ID: hex.EncodeToString(s.GetSpanId()), Parent: hex.EncodeToString(s.GetParentSpanId()),
					Attributes: make(map[string]string),
				}
				for _, a := range s.GetAttributes() {
					span.Attributes[a.GetKey()] = a.GetValue().GetStringValue()
				}
				c.spans = append(c.spans, span)
			}
		}
	}
}

// Spans returns what has come so far.
func (c *Collector) Spans() []Span {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]Span(nil), c.spans...)
}

// Text is all that has come so far, readable.
func (c *Collector) Text() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := ""
	for _, text := range c.texts {
		all += text
	}
	return all
}
