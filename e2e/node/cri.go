package node

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// maxMessage is the kubelet's limit for one CRI message, 16 MiB
// (k8s.io/cri-client, maxMsgSize).
const maxMessage = 16 << 20

// Client plays the kubelet: typed CRI calls to an image and a runtime service.
// It is safe for concurrent use.
type Client struct {
	Images  runtime.ImageServiceClient
	Runtime runtime.RuntimeServiceClient

	conns []*grpc.ClientConn
	logs  string // folder for the logs of pods
}

// Dial connects to a runtime socket and, when imageSocket is not empty, to
// another one for images. Container logs go below the folder logs. No traffic
// flows before the first call. Close releases the connections.
func Dial(runtimeSocket, imageSocket, logs string) (*Client, error) {
	conn, err := dialSocket(runtimeSocket)
	if err != nil {
		return nil, err
	}
	c := &Client{Runtime: runtime.NewRuntimeServiceClient(conn), conns: []*grpc.ClientConn{conn}, logs: logs}
	if imageSocket != "" {
		if conn, err = dialSocket(imageSocket); err != nil {
			c.Close()
			return nil, err
		}
		c.conns = append(c.conns, conn)
	}
	c.Images = runtime.NewImageServiceClient(conn)
	return c, nil
}

func dialSocket(path string) (*grpc.ClientConn, error) {
	conn, err := grpc.NewClient("unix://"+path,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)))
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", path, err)
	}
	return conn, nil
}

// Close releases the connections. It may be called again.
func (c *Client) Close() {
	for _, conn := range c.conns {
		_ = conn.Close() // only says that it is closed already
	}
}

func (c *Client) ready(ctx context.Context) error {
	if _, err := c.Images.ImageFsInfo(ctx, &runtime.ImageFsInfoRequest{}); err != nil {
		return err
	}
	resp, err := c.Runtime.Status(ctx, &runtime.StatusRequest{})
	if err != nil {
		return err
	}
	for _, condition := range resp.GetStatus().GetConditions() {
		if !condition.GetStatus() && (condition.GetType() == runtime.RuntimeReady || condition.GetType() == runtime.NetworkReady) {
			return errors.New(condition.GetType() + " is false: " + condition.GetMessage())
		}
	}
	return nil
}

// Pull pulls an image and returns its id, the digest of its config. A nil auth
// is an anonymous pull.
func (c *Client) Pull(ctx context.Context, ref string, auth *runtime.AuthConfig) (id string, err error) {
	resp, err := c.Images.PullImage(ctx, &runtime.PullImageRequest{Image: &runtime.ImageSpec{Image: ref}, Auth: auth})
	if err != nil {
		return "", fmt.Errorf("pull %s: %w", ref, err)
	}
	return resp.GetImageRef(), nil
}

// ImageStatus returns nil for an image that the node does not have.
func (c *Client) ImageStatus(ctx context.Context, ref string) (*runtime.Image, error) {
	resp, err := c.Images.ImageStatus(ctx, &runtime.ImageStatusRequest{Image: &runtime.ImageSpec{Image: ref}})
	if err != nil {
		return nil, fmt.Errorf("get status of %s: %w", ref, err)
	}
	return resp.GetImage(), nil
}

// ImageInfo returns the verbose part of an image's status.
func (c *Client) ImageInfo(ctx context.Context, ref string) (map[string]string, error) {
	resp, err := c.Images.ImageStatus(ctx, &runtime.ImageStatusRequest{Image: &runtime.ImageSpec{Image: ref}, Verbose: true})
	if err != nil {
		return nil, fmt.Errorf("get status of %s: %w", ref, err)
	}
	return resp.GetInfo(), nil
}

// List returns all images of the node.
func (c *Client) List(ctx context.Context) ([]*runtime.Image, error) {
	resp, err := c.Images.ListImages(ctx, &runtime.ListImagesRequest{})
	if err != nil {
		return nil, fmt.Errorf("list images: %w", err)
	}
	return resp.GetImages(), nil
}

// Remove removes an image with all its names; an unknown one is no error.
func (c *Client) Remove(ctx context.Context, ref string) error {
	if _, err := c.Images.RemoveImage(ctx, &runtime.RemoveImageRequest{Image: &runtime.ImageSpec{Image: ref}}); err != nil {
		return fmt.Errorf("remove image %s: %w", ref, err)
	}
	return nil
}
