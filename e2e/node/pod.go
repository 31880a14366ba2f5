package node

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Pod is a running sandbox on the host's network.
type Pod struct {
	ID     string
	client *Client
	config *runtime.PodSandboxConfig
}

// Container belongs to a Pod.
type Container struct {
	ID     string
	pod    *Pod
	client *Client
	log    string
}

// RunPod starts an empty pod. Edits may change its configuration first
// (namespaces, annotations).
func (c *Client) RunPod(ctx context.Context, name string, edits ...func(*runtime.PodSandboxConfig)) (*Pod, error) {
	uid := rand.Text()
	config := &runtime.PodSandboxConfig{
		Metadata:     &runtime.PodSandboxMetadata{Name: name, Uid: uid, Namespace: "default"},
		LogDirectory: filepath.Join(c.logs, name+"-"+uid),
		Linux: &runtime.LinuxPodSandboxConfig{SecurityContext: &runtime.LinuxSandboxSecurityContext{
			NamespaceOptions: &runtime.NamespaceOption{Network: runtime.NamespaceMode_NODE},
		}},
	}
	for _, edit := range edits {
		edit(config)
	}
	if err := os.MkdirAll(config.GetLogDirectory(), 0o755); err != nil {
		return nil, fmt.Errorf("run pod %s: %w", name, err)
	}
	resp, err := c.Runtime.RunPodSandbox(ctx, &runtime.RunPodSandboxRequest{Config: config})
	if err != nil {
		return nil, fmt.Errorf("run pod %s: %w", name, err)
	}
	return &Pod{ID: resp.GetPodSandboxId(), client: c, config: config}, nil
}

// Run starts a pod with one container of an image that the node has; an empty
// cmd keeps the image's own. The caller removes the pod: container.Pod().Remove.
func (c *Client) Run(ctx context.Context, name, image string, cmd ...string) (*Container, error) {
	pod, err := c.RunPod(ctx, name)
	if err != nil {
		return nil, err
	}
	container, err := pod.Create(ctx, image, cmd)
	if err == nil {
		err = container.Start(ctx)
	}
	if err != nil {
		cleanup, cancel := context.WithTimeout(context.WithoutCancel(ctx), 20*time.Second)
		defer cancel()
		return nil, errors.Join(err, pod.Remove(cleanup))
	}
	return container, nil
}

// Create creates a container without starting it. Edits may change its
// configuration first.
func (p *Pod) Create(ctx context.Context, image string, cmd []string, edits ...func(*runtime.ContainerConfig)) (*Container, error) {
	name := "c" + strings.ToLower(rand.Text()[:8])
	config := &runtime.ContainerConfig{
		Metadata: &runtime.ContainerMetadata{Name: name},
		Image:    &runtime.ImageSpec{Image: image},
		Command:  cmd,
		LogPath:  name + ".log",
		Linux:    &runtime.LinuxContainerConfig{SecurityContext: &runtime.LinuxContainerSecurityContext{NamespaceOptions: p.config.GetLinux().GetSecurityContext().GetNamespaceOptions()}},
	}
	for _, edit := range edits {
		edit(config)
	}
	resp, err := p.client.Runtime.CreateContainer(ctx, &runtime.CreateContainerRequest{
		PodSandboxId: p.ID, Config: config, SandboxConfig: p.config,
	})
	if err != nil {
		return nil, fmt.Errorf("create container of %s: %w", image, err)
	}
	return &Container{ID: resp.GetContainerId(), pod: p, client: p.client, log: filepath.Join(p.config.GetLogDirectory(), config.GetLogPath())}, nil
}

// Remove stops and removes the pod with all its containers.
func (p *Pod) Remove(ctx context.Context) error { return p.client.removePod(ctx, p.ID) }

// Container returns a handle for a container that runs already, for Exec, Wait
// and StopRemove; it knows neither log nor pod.
func (c *Client) Container(id string) *Container { return &Container{ID: id, client: c} }

// Pod returns the pod the container belongs to.
func (c *Container) Pod() *Pod { return c.pod }

// Start starts the container's process.
func (c *Container) Start(ctx context.Context) error {
	if _, err := c.client.Runtime.StartContainer(ctx, &runtime.StartContainerRequest{ContainerId: c.ID}); err != nil {
		return fmt.Errorf("start container %s: %w", c.ID, err)
	}
	return nil
}

// ExecResult is what a command run in a container has produced.
type ExecResult struct {
	Stdout, Stderr string
	ExitCode       int
}

// Exec runs a command in the container and waits for it; a command that exits
// with another code than 0 is no error. A deadline of ctx also ends the command.
func (c *Container) Exec(ctx context.Context, cmd ...string) (ExecResult, error) {
	req := &runtime.ExecSyncRequest{ContainerId: c.ID, Cmd: cmd}
	if deadline, ok := ctx.Deadline(); ok {
		req.Timeout = max(1, int64(time.Until(deadline).Seconds()))
	}
	resp, err := c.client.Runtime.ExecSync(ctx, req)
	if err != nil {
		return ExecResult{}, fmt.Errorf("exec %q: %w", cmd, err)
	}
	return ExecResult{string(resp.GetStdout()), string(resp.GetStderr()), int(resp.GetExitCode())}, nil
}

// Output runs a command as Exec does and returns its standard output; an exit
// code other than 0 is an error that carries standard error.
func (c *Container) Output(ctx context.Context, cmd ...string) (string, error) {
	res, err := c.Exec(ctx, cmd...)
	if err == nil && res.ExitCode != 0 {
		err = fmt.Errorf("exec %q: exit code %d: %s", cmd, res.ExitCode, res.Stderr)
	}
	return res.Stdout, err
}

// Logs returns what the container has written so far, both streams in order.
func (c *Container) Logs() (string, error) {
	b, err := os.ReadFile(c.log)
	if errors.Is(err, os.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("read log of container %s: %w", c.ID, err)
	}
	return plainLog(string(b)), nil
}

// plainLog strips the CRI log format: "time stream F|P text", where P is a
// piece of a line that goes on.
func plainLog(s string) string {
	var b strings.Builder
	for line := range strings.Lines(s) {
		fields := strings.SplitN(strings.TrimSuffix(line, "\n"), " ", 4)
		if len(fields) < 4 {
			continue // being written
		}
		b.WriteString(fields[3])
		if fields[2] == "F" {
			b.WriteByte('\n')
		}
	}
	return b.String()
}

// WaitLog waits until the log contains text, and fails when the container ends
// without it.
func (c *Container) WaitLog(ctx context.Context, text string) error {
	return c.poll(ctx, fmt.Sprintf("log contains %q", text), func(status *runtime.ContainerStatus) (bool, error) {
		log, err := c.Logs()
		if err != nil || strings.Contains(log, text) {
			return err == nil, err
		}
		if status.GetState() == runtime.ContainerState_CONTAINER_EXITED {
			return false, fmt.Errorf("container ended with code %d: %s", status.GetExitCode(), tail(log, 10))
		}
		return false, nil
	})
}

// Wait waits until the container's process has ended and returns its exit code.
func (c *Container) Wait(ctx context.Context) (code int, err error) {
	err = c.poll(ctx, "container ends", func(status *runtime.ContainerStatus) (bool, error) {
		code = int(status.GetExitCode())
		return status.GetState() == runtime.ContainerState_CONTAINER_EXITED, nil
	})
	return code, err
}

func (c *Container) poll(ctx context.Context, what string, done func(*runtime.ContainerStatus) (bool, error)) error {
	tick := time.NewTicker(2 * time.Millisecond) // benchmarks time by this
	defer tick.Stop()
	for {
		resp, err := c.client.Runtime.ContainerStatus(ctx, &runtime.ContainerStatusRequest{ContainerId: c.ID})
		if err != nil {
			return fmt.Errorf("wait until %s: %w", what, err)
		}
		ok, err := done(resp.GetStatus())
		if err != nil {
			return fmt.Errorf("wait until %s: %w", what, err)
		}
		if ok {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("wait until %s: %w", what, ctx.Err())
		}
	}
}

// StopRemove ends the container without grace and removes it.
func (c *Container) StopRemove(ctx context.Context) error {
	if _, err := c.client.Runtime.StopContainer(ctx, &runtime.StopContainerRequest{ContainerId: c.ID}); err != nil {
		return fmt.Errorf("stop container %s: %w", c.ID, err)
	}
	// Of a process that has just died by itself, as by a page it could not read,
	// containerd says that it is stopped before it has noted the end, and would then
	// not remove its container.
	err := c.poll(ctx, "container has stopped", func(status *runtime.ContainerStatus) (bool, error) {
		return status.GetState() != runtime.ContainerState_CONTAINER_RUNNING, nil
	})
	if err != nil {
		return err
	}
	if _, err := c.client.Runtime.RemoveContainer(ctx, &runtime.RemoveContainerRequest{ContainerId: c.ID}); err != nil {
		return fmt.Errorf("remove container %s: %w", c.ID, err)
	}
	return nil
}

// removePod ends the containers at once first: StopPodSandbox would give each
// of them its grace period.
func (c *Client) removePod(ctx context.Context, id string) error {
	list, err := c.Runtime.ListContainers(ctx, &runtime.ListContainersRequest{Filter: &runtime.ContainerFilter{PodSandboxId: id}})
	if err != nil {
		return fmt.Errorf("list containers of pod %s: %w", id, err)
	}
	for _, container := range list.GetContainers() {
		if err := c.Container(container.GetId()).StopRemove(ctx); err != nil {
			return err
		}
	}
	if _, err := c.Runtime.StopPodSandbox(ctx, &runtime.StopPodSandboxRequest{PodSandboxId: id}); err != nil {
		return fmt.Errorf("stop pod %s: %w", id, err)
	}
	if _, err := c.Runtime.RemovePodSandbox(ctx, &runtime.RemovePodSandboxRequest{PodSandboxId: id}); err != nil {
		return fmt.Errorf("remove pod %s: %w", id, err)
	}
	return nil
}

func (c *Client) removeAllPods(ctx context.Context) error {
	list, err := c.Runtime.ListPodSandbox(ctx, &runtime.ListPodSandboxRequest{})
	if err != nil {
		return fmt.Errorf("list pods: %w", err)
	}
	var errs []error
	for _, pod := range list.GetItems() {
		errs = append(errs, c.removePod(ctx, pod.GetId()))
	}
	return errors.Join(errs...)
}
