// Package vhost is a vhost network device: the features it negotiates, the memory its front-end shares, its rings and their life. It is what
// the transports (vhost-user, vhost-cuse) have in common and knows none of them: each message has a method here.
//
// A Device is used by one goroutine. It takes ownership of every eventfd that is passed to it, also when the call fails; descriptors of
// memory regions stay the caller's, who may close them when the call returns.
package vhost
