// Package user is the vhost-user transport: messages over a Unix socket, with descriptors passed beside them (the protocol is described in
// QEMU's docs/interop/vhost-user). A Server accepts any number of front-ends on one socket, Connect goes to a front-end that listens; each
// connection has a session with a vhost.Device of its own.
//
// A front-end is hostile: sizes are bounded before anything is read, a message that is not exactly of its type's size ends the connection,
// and descriptors that a message does not call for are closed.
package user
