package regtest

import "time"

// Features says which parts of the protocols the registry speaks. They may be
// changed at any time with Configure.
type Features struct {
	Referrers       bool // GET /v2/<name>/referrers/<digest>, and OCI-Subject on push
	FilterReferrers bool // honour artifactType there and say so with OCI-Filters-Applied

	ORASv2       bool // GET /v2/<name>/_oras/artifacts/referrers?digest=
	ORASv1       bool // GET /oras/artifacts/v1/<name>/manifests/<digest>/referrers
	ORASNextLink bool // ORASv1 pages by "@nextLink" in the body instead of Link
	// ORASPush accepts ORAS artifact manifests; on by default, as with registries
	// that do not look at manifest media types. Off answers 415, as distribution does.
	ORASPush bool

	PageSize int // entries a page of referrers; 0: everything on one page

	RedirectBlobs bool          // answer blob GETs with 307 to StorageHost
	URLTTL        time.Duration // how long such a URL works; 0: an hour
}

// DefaultFeatures is a current registry: OCI referrers with filtering, no legacy endpoints.
func DefaultFeatures() Features {
	return Features{Referrers: true, FilterReferrers: true, ORASPush: true}
}

// Configure changes features while the registry runs. Requests that have
// started already may see the former ones.
func (r *Registry) Configure(change func(*Features)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change(&r.features)
}

// SetAuth changes who may do what. Tokens already given stay valid; see RevokeTokens.
func (r *Registry) SetAuth(auth Auth) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.auth = auth
}

func (r *Registry) settings() (Features, Auth) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.features, r.auth
}
