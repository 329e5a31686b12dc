// Drives the real gobreaker through random traces in virtual time, and prints a digest of everything it answered: a line a trace.
// tests/breaker.rs generates the same traces, drives the Rust breaker, and compares. See `trace` there for the generator; both must agree.
package oracle

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sony/gobreaker/v2"
)

// splitmix64, by Sebastiano Vigna (public domain).
type random uint64

func (r *random) below(limit uint64) uint64 {
	*r += 0x9e3779b97f4a7c15
	z := uint64(*r)
	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9
	z = (z ^ (z >> 27)) * 0x94d049bb133111eb
	return (z ^ (z >> 31)) % limit
}

// FNV-1a over 32-bit words.
type digest uint64

func (d *digest) add(words ...uint32) {
	for _, word := range words {
		*d = (*d ^ digest(word)) * 0x100000001b3
	}
}

var (
	errFailed   = errors.New("failed")
	errExcluded = errors.New("excluded")
	outcomes    = []error{nil, errFailed, errExcluded}
	steps       = []uint64{0, 1, 1, 2, 3, 5, 7, 10, 20, 30}
)

func milliseconds(choice ...uint64) func(*random) time.Duration {
	return func(r *random) time.Duration { return time.Duration(choice[r.below(uint64(len(choice)))]) * time.Millisecond }
}

func trace(seed uint64, say func(string, ...any)) digest {
	r := random(seed)
	d := digest(0xcbf29ce484222325)
	maxRequests := uint32(r.below(5))
	interval := milliseconds(0, 1, 7, 20, 50)(&r)
	bucket := milliseconds(0, 0, 3, 5, 20, 60)(&r)
	timeout := milliseconds(0, 1, 10, 30)(&r)
	minimum := uint32(r.below(6))
	ratio := []float64{0.1, 0.3, 0.5, 0.75, 1}[r.below(5)]
	breaker := gobreaker.NewTwoStepCircuitBreaker[any](gobreaker.Settings{
		MaxRequests: maxRequests, Interval: interval, BucketPeriod: bucket, Timeout: timeout,
		ReadyToTrip: func(c gobreaker.Counts) bool {
			var valid uint32
			if c.Requests > c.TotalExclusions {
				valid = c.Requests - c.TotalExclusions
			}
			return valid > 0 && valid >= minimum && float64(c.TotalFailures)/float64(valid) >= ratio
		},
		IsExcluded: func(err error) bool { return err == errExcluded },
	})
	say("max %d interval %v bucket %v timeout %v min %d ratio %v", maxRequests, interval, bucket, timeout, minimum, ratio)
	var under []func(error)
	for range 60 {
		switch operation := r.below(10); {
		case operation < 4:
			done, err := breaker.Allow()
			refusal := uint32(0)
			switch {
			case err == nil:
				under = append(under, done)
			case errors.Is(err, gobreaker.ErrOpenState):
				refusal = 1
			default:
				refusal = 2
			}
			d.add(1, refusal)
			say("admit: %v", err)
		case operation < 7:
			outcome := outcomes[r.below(3)]
			if len(under) > 0 {
				at := r.below(uint64(len(under)))
				under[at](outcome)
				under = append(under[:at], under[at+1:]...)
				say("report #%d: %v", at, outcome)
			}
		case operation < 9:
			step := steps[r.below(uint64(len(steps)))]
			time.Sleep(time.Duration(step) * time.Millisecond)
			say("sleep %d ms", step)
		default:
			state := breaker.State()
			d.add(2, uint32(state))
			say("state: %v", state)
		}
		c := breaker.Counts()
		d.add(c.Requests, c.TotalSuccesses, c.TotalFailures, c.TotalExclusions, c.ConsecutiveSuccesses, c.ConsecutiveFailures)
		say("  %+v", c)
	}
	return d
}

// ORACLE_FIRST and ORACLE_COUNT say which seeds, ORACLE_FILE where the digests go. ORACLE_STORY prints one trace.
func TestTraces(t *testing.T) {
	number := func(name string) uint64 {
		value, err := strconv.ParseUint(os.Getenv(name), 10, 64)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		return value
	}
	first, count := number("ORACLE_FIRST"), number("ORACLE_COUNT")
	file, err := os.Create(os.Getenv("ORACLE_FILE"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	out := bufio.NewWriter(file)
	defer out.Flush()
	say := func(string, ...any) {}
	if os.Getenv("ORACLE_STORY") != "" {
		say = func(format string, arguments ...any) { fmt.Printf(format+"\n", arguments...) }
	}
	for seed := first; seed < first+count; seed++ {
		synctest.Test(t, func(t *testing.T) { fmt.Fprintf(out, "%016x\n", uint64(trace(seed, say))) })
	}
}
