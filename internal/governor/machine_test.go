package governor

import (
	"runtime"
	"testing"
	"testing/fstest"
)

func TestMachineMemory(t *testing.T) {
	const meminfo = "MemTotal:        8388608 kB\nMemFree:         1234 kB\n"
	for name, c := range map[string]struct {
		files map[string]string
		want  uint64
	}{
		"machine alone":      {map[string]string{"proc/meminfo": meminfo}, 8 << 30},
		"nothing is told":    {nil, guessedMemory},
		"meminfo is no text": {map[string]string{"proc/meminfo": "MemTotal: lots\n"}, guessedMemory},
		"version 2, own group": {map[string]string{"proc/meminfo": meminfo, "proc/self/cgroup": "0::/a.slice/b.service\n",
			"sys/fs/cgroup/a.slice/memory.max": "max\n", "sys/fs/cgroup/a.slice/b.service/memory.max": "1073741824\n"}, 1 << 30},
		"version 2, a group above is tighter": {map[string]string{"proc/meminfo": meminfo, "proc/self/cgroup": "0::/a.slice/b.service\n",
			"sys/fs/cgroup/a.slice/memory.max": "536870912\n", "sys/fs/cgroup/a.slice/b.service/memory.max": "1073741824\n"}, 512 << 20},
		"version 2, container sees only its root": {map[string]string{"proc/meminfo": meminfo, "proc/self/cgroup": "0::/\n",
			"sys/fs/cgroup/memory.max": "2147483648\n"}, 2 << 30},
		"version 2, path leaves the namespace": {map[string]string{"proc/meminfo": meminfo, "proc/self/cgroup": "0::/../../x\n",
			"sys/fs/cgroup/memory.max": "2147483648\n"}, 2 << 30},
		"version 1, path of the host": {map[string]string{"proc/meminfo": meminfo,
			"proc/self/cgroup":                           "5:cpu,cpuacct:/docker/x\n4:memory:/docker/x\n",
			"sys/fs/cgroup/memory/memory.limit_in_bytes": "3221225472\n", "sys/fs/cgroup/memory.max": "1\n"}, 3 << 30},
		"version 1, mounted with others": {map[string]string{"proc/meminfo": meminfo, "proc/self/cgroup": "4:hugetlb,memory:/g\n",
			"sys/fs/cgroup/memory/g/memory.limit_in_bytes": "1048576000\n"}, 1048576000},
		"version 1, no limit": {map[string]string{"proc/meminfo": meminfo, "proc/self/cgroup": "4:memory:/\n",
			"sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n"}, 8 << 30},
		"limit above the machine": {map[string]string{"proc/meminfo": meminfo, "proc/self/cgroup": "0::/\n",
			"sys/fs/cgroup/memory.max": "99999999999\n"}, 8 << 30},
		"limit without meminfo": {map[string]string{"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "1073741824\n"}, 1 << 30},
		"broken group line":     {map[string]string{"proc/meminfo": meminfo, "proc/self/cgroup": "0:\nnonsense\n"}, 8 << 30},
	} {
		t.Run(name, func(t *testing.T) {
			root := fstest.MapFS{}
			for path, text := range c.files {
				root[path] = &fstest.MapFile{Data: []byte(text)}
			}
			if got := machineMemory(root); got != c.want {
				t.Errorf("got %d bytes, want %d", got, c.want)
			}
		})
	}
}

func TestMachineMemory_Here(t *testing.T) {
	got := MachineMemory()
	if got < 64<<20 || (runtime.GOOS != "linux" && got != guessedMemory) {
		t.Errorf("this machine has %d bytes", got)
	}
}
