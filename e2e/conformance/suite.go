// Package conformance pins Kubernetes' own end-to-end suite and what its specs run: no code of ours. e2e/src/suite.rs builds
// the suite, ginkgo's command and the test image's program from this module.
package conformance

// The suite is the test program of this package.
import _ "k8s.io/kubernetes/test/e2e"
