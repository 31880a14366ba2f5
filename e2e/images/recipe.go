package images

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// formatVersion is part of every recipe's hash: raise it when the way in which
// layers or layouts are written changes.
const formatVersion = 1

// layer is the recipe of one layer: exactly one of bootstrap, script and sparse
// says how it is made.
type layer struct {
	Name      string
	Bootstrap []string // mmdebstrap's options for a first layer
	Script    string   // run by /bin/sh (or busybox) in a chroot of the layers below
	Sparse    *sparse  // one big file, written straight into the layer
}

// sparse is a big file that is mostly zeros.
type sparse struct {
	Path  string
	Size  int64
	Every int64 // a random block of 4 KiB at each multiple of this
}

// image is the recipe of an image.
type image struct {
	layers []layer
	config ocispec.ImageConfig
}

const install = "apt-get update -q && apt-get install -q -y --no-install-recommends "

// Cleaning belongs to the same layer: a later one would only hide the files.
const installed = " && apt-get clean && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/*.log /var/log/apt"

var base = layer{Name: "base", Bootstrap: []string{"--variant=minbase", "--include=ca-certificates"}}

var redisLayers = []layer{
	base,
	{Name: "redis-server", Script: install + "redis-server" + installed},
	{Name: "redis-config", Script: `
rm -rf /usr/share/doc /usr/share/man /usr/share/locale/[d-z]* /etc/redis/redis.conf
mkdir -p /usr/share/doc /data && echo "documentation removed" >/usr/share/doc/README
printf 'bind 127.0.0.1\nsave ""\ndir /data\n' >/etc/redis/redis.conf
rm -rf /etc/logrotate.d && echo "was a directory" >/etc/logrotate.d
ln /etc/redis/redis.conf /etc/redis/redis.conf.linked
`},
}

// recipes maps names to images.
func recipes() map[string]image {
	path := []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	redis := image{
		layers: redisLayers,
		config: ocispec.ImageConfig{
			Entrypoint: []string{"/usr/bin/redis-server"}, Cmd: []string{"/etc/redis/redis.conf"},
			Env: path, WorkingDir: "/data", ExposedPorts: map[string]struct{}{"6379/tcp": {}},
		},
	}
	bigfile := redis
	bigfile.layers = append(slices.Clone(redis.layers), layer{
		Name: "bigfile", Sparse: &sparse{Path: "data/big.bin", Size: 4<<30 + 64<<20 + 12345, Every: 16 << 20},
	})
	return map[string]image{
		"redis":         redis,
		"redis-bigfile": bigfile,
		"python": {
			layers: []layer{
				base,
				{Name: "python", Script: install + "python3 python3-numpy" + installed},
				{Name: "science", Script: install + "python3-scipy python3-pandas python3-matplotlib python3-sympy" + installed},
				{Name: "app", Script: `
rm -rf /usr/share/doc /usr/share/man
mkdir -p /app && cat >/app/main.py <<'EOF'
import time, numpy, pandas
frame = pandas.DataFrame({"n": numpy.arange(10)})
print("ready", int(frame["n"].sum()), flush=True)
while True:
    time.sleep(3600)
EOF
`},
			},
			config: ocispec.ImageConfig{Entrypoint: []string{"/usr/bin/python3"}, Cmd: []string{"/app/main.py"}, Env: path, WorkingDir: "/app"},
		},
		"node":     server("nodejs", nodeApp, "/usr/bin/node", "/app/main.js"),
		"nginx":    server("nginx", nginxSite, "/app/start"),
		"postgres": server("postgresql", postgresData, "/app/start"),
		"small": {
			layers: []layer{
				{Name: "small", Bootstrap: []string{"--variant=extract", "--include=busybox-static,python3.11-minimal"}},
				{Name: "small-links", Script: "/bin/busybox --install -s /bin && echo 'root:x:0:0:root:/:/bin/sh' >/etc/passwd"},
			},
			config: ocispec.ImageConfig{Entrypoint: []string{"/usr/bin/python3.11"}, Cmd: []string{"-c", "print('ready', flush=True); import time; time.sleep(1e6)"}, Env: path},
		},
	}
}

// Names lists the images that Build knows.
func Names() []string {
	var names []string
	for name := range recipes() {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// keys hashes each layer with all below it: a layer's bytes depend on them.
func keys(suite string, layers []layer) []string {
	sum := []byte(fmt.Sprintf("%d %s", formatVersion, suite))
	out := make([]string, 0, len(layers))
	for _, l := range layers {
		sum = hash(sum, l)
		out = append(out, l.Name+"-"+hex.EncodeToString(sum[:6]))
	}
	return out
}

func (i image) key(name, suite string) string {
	all := strings.Join(keys(suite, i.layers), " ")
	return name + "-" + hex.EncodeToString(hash([]byte(all), i.config)[:6])
}

func hash(below []byte, value any) []byte {
	b, err := json.Marshal(value)
	if err != nil {
		panic(fmt.Sprintf("recipe is not data: %v", err)) // a programming error in this file
	}
	sum := sha256.Sum256(append(slices.Clip(below), b...))
	return sum[:]
}
