package doctor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"time"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/referee-cri/referee/criimage"
	"github.com/referee-cri/referee/internal/control"
)

// told is what matters here of what the daemon says of itself.
type told struct {
	Version     string `json:"version"`
	Driver      string `json:"driver"`
	DriverError string `json:"driver_error"`
	Draining    bool   `json:"draining"`
	Volumes     []struct {
		ID          string `json:"id"`
		Reference   string `json:"reference"`
		Mounted     bool   `json:"mounted"`
		Quarantined bool   `json:"quarantined"`
	} `json:"volumes"`
	Breakers []struct {
		Key   string    `json:"key"`
		Last  string    `json:"last"`
		Open  bool      `json:"open"`
		Until time.Time `json:"until"`
	} `json:"breakers"`
}

func (n *Node) status(ctx context.Context) (*told, error) {
	s := &told{}
	client := control.Client{Path: control.Path(n.Config.State)}
	return s, client.Do(ctx, http.MethodGet, "/v1/status", func(line json.RawMessage) error { return json.Unmarshal(line, s) })
}

// daemon asks the daemon how it is.
func (n *Node) daemon(ctx context.Context) []Finding {
	s, err := n.status(ctx)
	if errors.Is(err, control.ErrNoDaemon) {
		return []Finding{bad("it does not run", "the kubelet's image calls wait or fail; volumes of running containers are not served", "systemctl start referee; journalctl --unit referee")}
	}
	if err != nil {
		return []Finding{bad(err.Error(), "it cannot say how it is", "journalctl --unit referee")}
	}
	found := []Finding{good("version %s runs, driver %s, %s", s.Version, s.Driver, counted(len(s.Volumes), "volume"))}
	if s.Version != n.Version {
		found = append(found, degraded(fmt.Sprintf("it is version %s, this program %s", s.Version, n.Version), "it was not restarted after an upgrade", "systemctl restart referee"))
	}
	if s.DriverError != "" {
		found = append(found, bad("no attach driver works: "+s.DriverError, "every pull is ordinary", "see attach driver above"))
	}
	if s.Draining {
		found = append(found, degraded("the node is drained", "every pull is ordinary", "referee drain --cancel"))
	}
	for _, v := range s.Volumes {
		switch {
		case v.Quarantined:
			found = append(found, degraded(fmt.Sprintf("the form of %s is quarantined", v.Reference), "its registry sent bytes of another digest; the image's own layers are used",
				"replace its containers, have the publisher attach it again; then remove "+n.Config.Root+"/quarantine/"+v.ID+".json and restart the daemon"))
		case !v.Mounted:
			found = append(found, bad(fmt.Sprintf("the volume of %s is not mounted", v.Reference), "containers cannot be created from that image", "see the daemon's log; pulling the image again brings credentials"))
		}
	}
	for _, b := range s.Breakers {
		if b.Open {
			found = append(found, degraded(fmt.Sprintf("%s failed again and again, last with %s", b.Key, b.Last), "it is left alone until "+b.Until.Format(time.TimeOnly), "see whether that registry answers"))
		}
	}
	return found
}

// criSocket calls what the kubelet calls first.
func (n *Node) criSocket(ctx context.Context) []Finding {
	path := n.Config.CRI.Socket
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return []Finding{bad(path+" is not there", "a kubelet that is sent there does not start", "systemctl start referee.socket")}
	case err != nil:
		return []Finding{bad(err.Error(), "", "run as root")}
	case info.Mode().Type() != fs.ModeSocket:
		return []Finding{bad(path+" is no socket", "nobody can listen there", "remove it, then systemctl restart referee.socket")}
	}
	var found []Finding
	if others := info.Mode().Perm() & 0o007; others != 0 {
		found = append(found, bad(fmt.Sprintf("%s has mode %04o", path, info.Mode().Perm()), "everybody on the node may pull and remove images", "chmod 0660 "+path))
	}
	conn, err := criimage.Dial(path)
	if err != nil {
		return append(found, bad(err.Error(), "", ""))
	}
	defer func() { _ = conn.Close() }()
	if _, err := runtime.NewImageServiceClient(conn).ImageFsInfo(ctx, &runtime.ImageFsInfoRequest{}); err != nil {
		return append(found, bad(fmt.Sprintf("%s does not answer: %s", path, plain(err)), "the kubelet cannot pull", "see daemon and containerd"))
	}
	if len(found) == 0 {
		return []Finding{good("%s answers", path)}
	}
	return found
}

// keeper asks for what is kept while the daemon is started again.
func (n *Node) keeper(ctx context.Context) []Finding {
	s, err := n.status(ctx)
	if err != nil || s.Driver != "fuse" {
		return []Finding{good("not needed: no daemon that serves over FUSE")}
	}
	kept, err := n.Keeper.Take(ctx)
	if err != nil {
		return []Finding{degraded("it does not answer: "+err.Error(), "readers get errors when the daemon is killed", "systemctl restart referee")}
	}
	if kept == nil {
		return []Finding{degraded("nothing is kept", "readers get errors when the daemon is killed", "systemctl restart referee")}
	}
	return []Finding{closed(kept)}
}

func closed(kept *os.File) Finding {
	_ = kept.Close() // a duplicate
	return good("it holds the kernel's connection")
}
