package criimage

import (
	"context"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
)

// Headers that gRPC puts among a call's metadata although they describe the
// connection it came over. Each hop has its own.
const (
	headerAuthority      = ":authority"
	headerContentType    = "content-type"
	headerUserAgent      = "user-agent"
	headerAcceptEncoding = "grpc-accept-encoding"
)

// forward turns the context of a call received into that of the same call
// sent on: metadata, deadline and cancellation go with it. The options carry
// what gRPC does not take from metadata.
func forward(ctx context.Context) (context.Context, []grpc.CallOption) {
	options := []grpc.CallOption{grpc.ForceCodecV2(rawCodec{})}
	md, ok := metadata.FromIncomingContext(ctx) // a copy
	if !ok {
		return ctx, options
	}
	if subtype := contentSubtype(md[headerContentType]); subtype != "" {
		options = append(options, grpc.CallContentSubtype(subtype))
	}
	if authority := md[headerAuthority]; len(authority) == 1 && authority[0] != defaultAuthority {
		options = append(options, grpc.CallAuthority(authority[0]))
	}
	delete(md, headerAuthority)
	delete(md, headerContentType)
	delete(md, headerUserAgent)
	delete(md, headerAcceptEncoding)
	propagate(ctx, md)
	return metadata.NewOutgoingContext(ctx, md), options
}

// answerHeader strips from containerd's header metadata what belongs to the
// hop. md is changed in place.
func answerHeader(md metadata.MD) metadata.MD {
	delete(md, headerContentType)
	delete(md, headerAcceptEncoding)
	return md
}

// contentSubtype returns "proto" for "application/grpc+proto" and "" for
// "application/grpc" (gRPC over HTTP/2, "Requests"). The server has checked
// the prefix already.
func contentSubtype(contentType []string) string {
	if len(contentType) == 0 {
		return ""
	}
	subtype := strings.TrimPrefix(contentType[0], "application/grpc")
	return strings.TrimLeft(subtype, "+;")
}
