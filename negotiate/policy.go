package negotiate

// Policy says what the operator allows for each repository. Implementations are
// safe for concurrent use and answer from memory.
type Policy interface {
	// Rules returns what holds for a repository, named in full:
	// "registry.example/team/app". Never nil.
	Rules(repository string) *Rules
}

// PolicyFunc is a Policy in one function.
type PolicyFunc func(repository string) *Rules

// Rules calls f.
func (f PolicyFunc) Rules(repository string) *Rules { return f(repository) }

// Uniform is a policy with the same rules for every repository.
func Uniform(rules Rules) Policy {
	return PolicyFunc(func(string) *Rules { return &rules })
}

// Rules is what the operator's policy says about a repository. The zero value
// allows every form of every size, unsigned. It is not changed after it was made.
type Rules struct {
	// Name is the block of the configuration that these rules come from, as the
	// operator knows it; "" for the built-in default.
	Name string
	// Formats are the formats allowed, the preferred first. nil: all of them, in
	// the order of the recognisers. Empty: none, every pull is an ordinary one.
	Formats []string
	// MinSize is the size, in bytes, of all layers of an image as its registry
	// stores them, below which an ordinary pull is better.
	MinSize int64
	// RequireSignature lets pass only forms that one of Verifiers vouches for.
	RequireSignature bool
	// Verifiers are the trust stores whose signatures count.
	Verifiers []Verifier
	// LegacyORAS says whether endpoints from before OCI 1.1 are asked.
	LegacyORAS LegacyMode
	// ForeignFilesystems says what to do with forms whose file-system image,
	// made by somebody else, is parsed by this node's kernel as it is.
	ForeignFilesystems ForeignMode
}

// ForeignMode is how far foreign file-system images are believed.
type ForeignMode int

// The modes.
const (
	ForeignAllow      ForeignMode = iota // as far as other forms
	ForeignSignedOnly                    // where one of the verifiers vouches for them
	ForeignDeny                          // never
)
