"""The numbers of the system calls that the sandbox names: one table for x86-64, one for 64-bit ARM.

Read by `seccomp.py`, which decides what is allowed. Must never hold a rule.
From Linux's `unistd.h`; numbers are never reused.
"""

from __future__ import annotations

# name:x86_64:aarch64, a number left out where the machine has no such call.
FILES = """
read:0:63 write:1:64 open:2: close:3:57 stat:4: fstat:5:80 lstat:6: newfstatat:262:79 statx:332:291 statfs:137:43
fstatfs:138:44 lseek:8:62 pread64:17:67 pwrite64:18:68 readv:19:65 writev:20:66 preadv:295:69 pwritev:296:70
preadv2:327:286 pwritev2:328:287 access:21: faccessat:269:48 faccessat2:439:439 dup:32:23 dup2:33: dup3:292:24
pipe:22: pipe2:293:59 sendfile:40:71 copy_file_range:326:285 flock:73:32 fsync:74:82 fdatasync:75:83
sync_file_range:277:84 ftruncate:77:46 fallocate:285:47 fadvise64:221:223 readahead:187:213 getdents:78:
getdents64:217:61 getcwd:79:17 chdir:80:49 fchdir:81:50 rename:82: renameat:264:38 renameat2:316:276 mkdir:83:
mkdirat:258:34 rmdir:84: unlink:87: unlinkat:263:35 readlink:89: readlinkat:267:78 openat:257:56 umask:95:166
close_range:436:436 fcntl:72:25 ioctl:16:29
"""
WAITING = """
poll:7: ppoll:271:73 select:23: pselect6:270:72 epoll_create:213: epoll_create1:291:20 epoll_ctl:233:21
epoll_wait:232: epoll_pwait:281:22 epoll_pwait2:441:441 eventfd:284: eventfd2:290:19 timerfd_create:283:85
timerfd_settime:286:86 timerfd_gettime:287:87 nanosleep:35:101 clock_nanosleep:230:115 pause:34: alarm:37:
setitimer:38:103 getitimer:36:102 timer_create:222:107 timer_settime:223:110 timer_gettime:224:108
timer_getoverrun:225:109 timer_delete:226:111 restart_syscall:219:128 wait4:61:260 waitid:247:95
"""
MEMORY = """
mmap:9:222 mprotect:10:226 munmap:11:215 brk:12:214 mremap:25:216 msync:26:227 mincore:27:232 madvise:28:233
mlock:149:228 munlock:150:229 membarrier:324:283 get_mempolicy:239:236
"""
THREADS = """
clone:56:220 futex:202:98 futex_waitv:449:449 set_robust_list:273:99 get_robust_list:274:100 set_tid_address:218:96
gettid:186:178 arch_prctl:158: rseq:334:293 exit:60:93 exit_group:231:94 sched_yield:24:124
sched_getaffinity:204:123 sched_getscheduler:145:120 sched_getparam:143:121 sched_get_priority_max:146:125
sched_get_priority_min:147:126 getcpu:309:168
"""
SIGNALS = """
rt_sigaction:13:134 rt_sigprocmask:14:135 rt_sigreturn:15:139 rt_sigpending:127:136 rt_sigtimedwait:128:137
rt_sigsuspend:130:133 sigaltstack:131:132 kill:62:129 tgkill:234:131
"""
FACTS = """
getpid:39:172 getppid:110:173 getuid:102:174 geteuid:107:175 getgid:104:176 getegid:108:177 getgroups:115:158
getresuid:118:148 getresgid:120:150 getpgid:121:155 getpgrp:111: getsid:124:156 getpriority:140:141 capget:125:90
getrlimit:97:163 setrlimit:160:164 prlimit64:302:261 getrusage:98:165 sysinfo:99:179 uname:63:160 getrandom:318:278
prctl:157:167 clock_gettime:228:113 clock_getres:229:114 gettimeofday:96:169 time:201: times:100:153
"""
REFUSED = """
execve:59:221 execveat:322:281 fork:57: vfork:58: socket:41:198 socketpair:53:199 ptrace:101:117
process_vm_readv:310:270 process_vm_writev:311:271 kcmp:312:272 pidfd_open:434:434 pidfd_getfd:438:438
pidfd_send_signal:424:424 rt_sigqueueinfo:129:138 rt_tgsigqueueinfo:297:240 tkill:200:130 mount:165:40
umount2:166:39 pivot_root:155:41 chroot:161:51 setns:308:268 unshare:272:97 bpf:321:280 keyctl:250:219
add_key:248:217 request_key:249:218 perf_event_open:298:241 userfaultfd:323:282 io_uring_setup:425:425
io_uring_enter:426:426 io_uring_register:427:427 kexec_load:246:104 kexec_file_load:320:294 init_module:175:105
finit_module:313:273 delete_module:176:106 reboot:169:142 swapon:167:224 swapoff:168:225 link:86: linkat:265:37
symlink:88: symlinkat:266:36 mknod:133: mknodat:259:33 truncate:76:45 chmod:90: fchmod:91:52 fchmodat:268:53
chown:92: fchown:93:55 lchown:94: fchownat:260:54 utime:132: utimes:235: utimensat:280:88 setxattr:188:5
lsetxattr:189:6 fsetxattr:190:7 removexattr:197:14 lremovexattr:198:15 fremovexattr:199:16 setsid:112:157
setpgid:109:154 setpriority:141:140 sched_setscheduler:144:119 sched_setparam:142:118 sched_setaffinity:203:122
setuid:105:146 setgid:106:144 setresuid:117:147 setresgid:119:149 setgroups:116:159 capset:126:91 shmget:29:194
msgget:68:186 semget:64:190 mq_open:240:180 open_by_handle_at:304:265 acct:163:89 quotactl:179:60
settimeofday:164:170 clock_settime:227:112 sethostname:170:161
"""
