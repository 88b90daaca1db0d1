package control

import (
	"syscall"
	"time"
)

// usedCPU is what this process has used of the processor, for itself and in the
// kernel; zero if nobody says.
func usedCPU() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
