// Package vm runs test programs under another kernel than this machine's: in a
// virtual machine whose whole disk is an initramfs with the program in it.
//
// It owns the machine's process and its scratch directory. There is no network
// and nothing to install: the kernel and its modules come from a Debian
// package. The machine is emulated (TCG), so that it runs wherever qemu does.
package vm
