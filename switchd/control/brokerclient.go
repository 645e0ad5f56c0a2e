package control

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"

	"golang.org/x/sys/unix"
)

// BrokerClient asks switchd's socket for QEMU processes.
type BrokerClient struct{ client *Client }

// NewBroker makes a client for that socket. Nothing is connected before the first call.
func NewBroker(path string) *BrokerClient {
	return &BrokerClient{client: &Client{path: path, http: NewClient(path).http, hint: "is switchd running? systemctl status switchd"}}
}

// Version asks what runs.
func (b *BrokerClient) Version(ctx context.Context) (VersionInfo, error) {
	return b.client.Version(ctx)
}

// Plug finds or makes the named port. Its socket lets this process's user connect.
func (b *BrokerClient) Plug(ctx context.Context, name string) (p Port, err error) {
	return p, b.client.call(ctx, http.MethodPut, "/v1/plugs/"+url.PathEscape(name), nil, &p)
}

// OpenDevice has switchd open a character device. The descriptor is the caller's; it survives exec (no FD_CLOEXEC).
func (b *BrokerClient) OpenDevice(ctx context.Context, path string) (fd int, err error) {
	conn, err := (&net.Dialer{Timeout: 2 * time.Second}).DialContext(ctx, "unix", b.client.path)
	if err != nil {
		return -1, b.client.unreachable(ctx, err)
	}
	defer conn.Close()
	deadline, ok := ctx.Deadline()
	if !ok {
		deadline = time.Now().Add(10 * time.Second)
	}
	if err := conn.SetDeadline(deadline); err != nil {
		return -1, err
	}
	body, err := json.Marshal(OpenDeviceRequest{Path: path})
	if err != nil {
		return -1, err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://switchd/v1/devices", bytes.NewReader(body))
	if err != nil {
		return -1, err
	}
	if err := request.Write(conn); err != nil {
		return -1, fmt.Errorf("asking switchd for %s: %w", path, err)
	}
	rights := &rightsReader{conn: conn.(*net.UnixConn)}
	defer rights.close()
	response, err := http.ReadResponse(bufio.NewReader(rights), request)
	if err != nil {
		return -1, fmt.Errorf("asking switchd for %s: %w", path, err)
	}
	defer response.Body.Close()
	data, err := io.ReadAll(io.LimitReader(response.Body, maxBody))
	if err != nil {
		return -1, fmt.Errorf("asking switchd for %s: %w", path, err)
	}
	if response.StatusCode != http.StatusOK {
		var e errorBody
		if json.Unmarshal(data, &e) != nil || e.Error == "" {
			e.Error = response.Status
		}
		return -1, &RemoteError{Status: response.StatusCode, Message: e.Error, Hint: e.Hint}
	}
	if len(rights.fds) != 1 {
		return -1, fmt.Errorf("switchd's answer for %s brought %d descriptors instead of one", path, len(rights.fds))
	}
	fd, rights.fds = rights.fds[0], nil
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, 0); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// rightsReader reads a stream and collects the descriptors that come with it.
type rightsReader struct {
	conn *net.UnixConn
	fds  []int
}

func (r *rightsReader) Read(p []byte) (int, error) {
	control := make([]byte, unix.CmsgSpace(4*16))
	n, controlLen, _, _, err := r.conn.ReadMsgUnix(p, control)
	if err != nil {
		return n, err
	}
	messages, err := unix.ParseSocketControlMessage(control[:controlLen])
	if err != nil {
		return n, err
	}
	for _, m := range messages {
		fds, err := unix.ParseUnixRights(&m)
		if err != nil {
			return n, err
		}
		r.fds = append(r.fds, fds...)
	}
	if n == 0 {
		return 0, io.EOF
	}
	return n, nil
}

func (r *rightsReader) close() {
	for _, fd := range r.fds {
		unix.Close(fd)
	}
}

func isStatus(err error, status int) bool {
	var remote *RemoteError
	return errors.As(err, &remote) && remote.Status == status
}

// IsExists tells that switchd answered that it is there already.
func IsExists(err error) bool { return isStatus(err, http.StatusConflict) }

// IsNotFound tells that switchd answered that there is no such thing.
func IsNotFound(err error) bool { return isStatus(err, http.StatusNotFound) }
