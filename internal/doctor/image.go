package doctor

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/distribution/reference"

	"github.com/referee-cri/referee/internal/registry"
)

// maxSkew is what tokens and signatures forgive: token servers allow minutes.
const maxSkew = time.Minute

// registryClock compares the clock with that of the image's registry.
func (n *Node) registryClock(ctx context.Context) []Finding {
	const means, remedy = "tokens, certificates and signatures are good or not by these clocks", "run a time service (systemd-timesyncd, chrony)"
	named, err := reference.ParseDockerRef(n.Image)
	if err != nil {
		return []Finding{bad(err.Error(), "", "name an image as in a pod")}
	}
	repository, err := n.Registry.Repository(named.Name(), registry.Credentials{})
	if err != nil {
		return []Finding{bad(err.Error(), "", "name an image as in a pod")}
	}
	asked := time.Now()
	response, err := repository.Do(ctx, registry.Request{Method: http.MethodHead, Path: "manifests/" + tagOf(named), Capability: registry.Resolve})
	if err != nil {
		return []Finding{degraded("the registry's clock: "+err.Error(), means, "see image")}
	}
	defer func() { _ = response.Body.Close() }()
	now := asked.Add(time.Since(asked) / 2)
	date, err := http.ParseTime(response.Header.Get("Date"))
	if err != nil {
		return []Finding{good("%s does not tell the time", response.Host)}
	}
	if skew := now.Sub(date).Abs(); skew > maxSkew {
		return []Finding{bad(fmt.Sprintf("%s and this node are %s apart", response.Host, skew.Round(time.Second)), means, remedy)}
	}
	return []Finding{good("%s and this node agree", response.Host)}
}

// tagOf is the tag or digest of a reference that has one.
func tagOf(named reference.Named) string {
	if digested, is := named.(reference.Digested); is {
		return digested.Digest().String()
	}
	if tagged, is := named.(reference.Tagged); is {
		return tagged.Tag()
	}
	return "latest"
}

// image asks its registry what a pull would find.
func (n *Node) image(ctx context.Context) []Finding {
	started := time.Now()
	inspection, err := n.Inspect(ctx, n.Image)
	if err != nil {
		return []Finding{bad(err.Error(), "a pull would fail, or be ordinary", "see referee inspect "+n.Image)}
	}
	if inspection.Outcome != "lazy" {
		return []Finding{degraded(fmt.Sprintf("a pull of %s would be ordinary: %s: %s", n.Image, inspection.Reason, inspection.Detail),
			"all its layers are fetched before it starts", "referee inspect "+n.Image+" tells of every form; referee convert attaches one")}
	}
	found := []Finding{good("a pull of %s would be lazy, as %s", n.Image, inspection.Format)}
	if took, limit := time.Since(started), n.Config.Pull.NegotiateTimeout.Duration; took > limit {
		found = append(found, degraded(fmt.Sprintf("looking at all that is attached took %s, a pull waits %s", took.Round(time.Millisecond), limit),
			"pulls may be ordinary because the registry is slow", "raise pull.negotiate_timeout, or use a mirror"))
	}
	return found
}
