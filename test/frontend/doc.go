// Package frontend is a vhost-user front-end of the project's own: the driver's side of a virtio-net device, without a virtual machine. It
// behaves (Device.Send, Device.Receive), or misbehaves: rings, memory and messages can be written at will. Its ring code shares nothing
// with switchd/virtio, so that a mistake there is not made twice.
package frontend
