//go:build !linux

package cli

import (
	"errors"
	"runtime"
)

var errUnknownSystem = errors.New("not known on " + runtime.GOOS)

// kernel is the system's name.
func kernel() string { return runtime.GOOS }

// descriptorLimit is how many files this process may open.
func descriptorLimit() (uint64, error) { return 0, errUnknownSystem }

// freeBytes is what may still be written to the file system of dir.
func freeBytes(string) (free uint64, doubt string, err error) { return 0, "", errUnknownSystem }
