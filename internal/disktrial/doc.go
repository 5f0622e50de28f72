// Package disktrial puts the storage engine on real, small file systems and takes
// them away: writes that never reached the disk, killed processes, full disks,
// folders that must be refused, bits that rotted. It is tests only; DESIGN.md tells
// how a trial runs.
package disktrial
