package images

import ocispec "github.com/opencontainers/image-spec/specs-go/v1"

// server is an image of three layers: Debian, one package, and what makes a
// server of it. Its program is told the port to listen at by its one argument,
// because pods are on the host's network.
func server(pkg, setUp string, command ...string) image {
	return image{
		layers: []layer{
			base,
			{Name: pkg, Script: install + pkg + installed},
			{Name: pkg + "-app", Script: setUp},
		},
		config: ocispec.ImageConfig{
			Entrypoint: command,
			Env:        []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
		},
	}
}

const nodeApp = `
mkdir -p /app && cat >/app/main.js <<'END'
const http = require('node:http'), crypto = require('node:crypto'), zlib = require('node:zlib');
const page = zlib.gzipSync(crypto.createHash('sha256').update('ready').digest('hex'));
http.createServer((_, answer) => answer.end(page)).listen(Number(process.argv[2]), '127.0.0.1');
END
`

const nginxSite = `
rm -f /etc/nginx/sites-enabled/default
mkdir -p /app && cat >/app/start <<'END'
#!/bin/sh
echo "server { listen 127.0.0.1:$1; root /var/www/html; index index.nginx-debian.html; }" >/etc/nginx/sites-enabled/app
exec /usr/sbin/nginx -g 'daemon off; error_log /dev/stderr;'
END
chmod +x /app/start
`

// The data directory is made here, as in an image that has data in it. No
// password is asked for.
const postgresData = `
bin=$(echo /usr/lib/postgresql/*/bin)
rm -rf /var/lib/postgresql/*/main
mkdir -p /app /data && chown postgres /data && chmod 700 /data
as="setpriv --reuid postgres --regid postgres --init-groups"
$as $bin/initdb -D /data --auth trust --locale C.UTF-8 --no-sync
cat >/app/start <<END
#!/bin/sh
exec $as $bin/postgres -D /data -p \$1 -h 127.0.0.1 -k ''
END
chmod +x /app/start
`
