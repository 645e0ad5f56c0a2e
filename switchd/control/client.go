package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"time"
)

// ErrUnreachable says that no switchd answers on the socket.
var ErrUnreachable = errors.New("switchd is not reachable")

// Client talks to a switchd.
type Client struct {
	path string
	hint string // where to look when nobody answers
	http http.Client
}

// NewClient makes a client for a control socket. Nothing is connected before the first call.
func NewClient(path string) *Client {
	return &Client{path: path, hint: "is it running? systemctl status switchd; another socket: --control PATH", http: http.Client{
		Timeout: 30 * time.Second,
		Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{Timeout: 2 * time.Second}).DialContext(ctx, "unix", path)
		}},
	}}
}

// RemoteError is an error that switchd answered with.
type RemoteError struct {
	Status        int
	Message, Hint string
}

func (e *RemoteError) Error() string {
	if e.Hint != "" {
		return e.Message + " (" + e.Hint + ")"
	}
	return e.Message
}

// Version asks what runs.
func (c *Client) Version(ctx context.Context) (v VersionInfo, err error) {
	return v, c.call(ctx, http.MethodGet, "/v1/version", nil, &v)
}

// Ports lists the ports.
func (c *Client) Ports(ctx context.Context) (p []Port, err error) {
	return p, c.call(ctx, http.MethodGet, "/v1/ports", nil, &p)
}

// Port shows one port, by number or name.
func (c *Client) Port(ctx context.Context, which string) (p Port, err error) {
	return p, c.call(ctx, http.MethodGet, "/v1/ports/"+url.PathEscape(which), nil, &p)
}

// Stats reads all counters.
func (c *Client) Stats(ctx context.Context) (s Stats, err error) {
	return s, c.call(ctx, http.MethodGet, "/v1/stats", nil, &s)
}

// FDB lists the learned addresses.
func (c *Client) FDB(ctx context.Context) (f []FDBEntry, err error) {
	return f, c.call(ctx, http.MethodGet, "/v1/fdb", nil, &f)
}

// AddPort makes a named port.
func (c *Client) AddPort(ctx context.Context, name string) (Port, error) {
	return c.AddPortAs(ctx, AddPortRequest{Name: name})
}

// AddPortAs makes a named port whose socket belongs to somebody else.
func (c *Client) AddPortAs(ctx context.Context, r AddPortRequest) (p Port, err error) {
	return p, c.call(ctx, http.MethodPost, "/v1/ports", r, &p)
}

// RemovePort removes a named port.
func (c *Client) RemovePort(ctx context.Context, name string) error {
	return c.call(ctx, http.MethodDelete, "/v1/ports/"+url.PathEscape(name), nil, nil)
}

// unreachable says why there was no answer, and what to do about it. A caller's own end of ctx is no failure of switchd.
func (c *Client) unreachable(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("asking switchd on %s: %w", c.path, context.Cause(ctx))
	}
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err // without the method and an address that nobody typed
	}
	hint := c.hint
	if errors.Is(err, os.ErrPermission) {
		hint = "only root and the group of the socket may connect: use sudo, or --socket-group of switchd"
	}
	return fmt.Errorf("%w on %s: %w (%s)", ErrUnreachable, c.path, err, hint)
}

func (c *Client) call(ctx context.Context, method, path string, body, answer any) error {
	var reader io.Reader
	if body != nil {
		data, err := json.Marshal(body)
		if err != nil {
			return err
		}
		reader = bytes.NewReader(data)
	}
	request, err := http.NewRequestWithContext(ctx, method, "http://switchd"+path, reader)
	if err != nil {
		return err
	}
	response, err := c.http.Do(request)
	if err != nil {
		return c.unreachable(ctx, err)
	}
	defer response.Body.Close()
	if response.StatusCode >= 300 {
		var e errorBody
		if err := json.NewDecoder(response.Body).Decode(&e); err != nil || e.Error == "" {
			e.Error = response.Status
		}
		return &RemoteError{Status: response.StatusCode, Message: e.Error, Hint: e.Hint}
	}
	if answer == nil {
		return nil
	}
	if err := json.NewDecoder(response.Body).Decode(answer); err != nil {
		return fmt.Errorf("reading switchd's answer to %s %s: %w", method, path, err)
	}
	return nil
}
