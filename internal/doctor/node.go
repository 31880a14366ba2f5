package doctor

import (
	"context"

	"google.golang.org/grpc"

	"github.com/referee-cri/referee/configs"
	"github.com/referee-cri/referee/internal/keeper"
	"github.com/referee-cri/referee/internal/registry"
	"github.com/referee-cri/referee/lazyblock/attach"
	"github.com/referee-cri/referee/negotiate"
	"github.com/referee-cri/referee/negotiate/policy"
)

// Node is what is looked at. Fields that are nil or empty leave their checks out,
// but for Config.
type Node struct {
	Version  string // of this program
	Root     string // the node's file system, for the kubelet's files; "": this one's
	Config   *configs.Config
	Problems []policy.Finding // of the configuration, its policy and trust files

	Backend     *grpc.ClientConn            // containerd's CRI
	Containerd  *grpc.ClientConn            // containerd's own API
	Snapshotter func(context.Context) error // whether grafts go where CRI's images are
	Registry    *registry.Client
	Keeper      keeper.Client

	Image   string // a reference to look at; "": none
	Inspect func(context.Context, string) (*negotiate.Inspection, error)

	Survey func(dir string) []attach.Finding // attach.Survey
}

// named is a check that is a function.
type named struct {
	name string
	look func(context.Context) []Finding
}

func (n named) Name() string                       { return n.name }
func (n named) Look(ctx context.Context) []Finding { return n.look(ctx) }

var _ Check = named{}

// Checks are all that can be made of the node, in the order in which somebody
// would look.
func (n *Node) Checks() []Check {
	checks := []Check{
		named{"configuration", n.configuration},
		named{"attach driver", n.attachDriver},
		named{"file systems", n.fileSystems},
		named{"clock", n.clock},
		named{"disk", n.disk},
		named{"containerd", n.containerd},
		named{"pull path", n.pullPath},
		named{"snapshotter", n.snapshotter},
		named{"mounts", n.mounts},
		named{"image verifiers", n.imageVerifiers},
		named{"kubelet", n.kubelet},
		named{"credentials", n.credentials},
		named{"registry hosts", n.registryHosts},
		named{"cri socket", n.criSocket},
		named{"daemon", n.daemon},
		named{"keeper", n.keeper},
	}
	if n.Image != "" {
		checks = append(checks, named{"registry clock", n.registryClock}, named{"image", n.image})
	}
	return checks
}
