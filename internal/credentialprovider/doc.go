// Package credentialprovider asks the kubelet's credential provider plugins for
// the registry credentials of an image, by the kubelet's own configuration: the
// file and the directory named by --image-credential-provider-config and
// --image-credential-provider-bin-dir.
//
// It owns the answers of the plugins, in memory, each as long as the plugin says.
// A plugin that fails, hangs or answers nonsense gives no credentials; that is
// logged now and then and never fails a pull. Secrets are never written, and
// never logged: what a plugin says on its standard error is shown clipped and
// with everything masked that it also said on standard output or that looks like
// a token.
//
// Providers with tokenAttributes want a service account token of the pod that
// only the kubelet can issue. They are left out, with a warning.
//
// Two goroutines run for each plugin process under way: one awaits it, one ends
// it when Plugins.Close is called, which awaits them all.
package credentialprovider
