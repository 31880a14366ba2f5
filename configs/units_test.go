package configs_test

import (
	"testing"

	"github.com/referee-cri/referee/configs"
)

func TestSizeText(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]struct {
		size  int64
		again string
	}{
		"0B":         {0, "0B"},
		"512B":       {512, "512B"},
		"64MiB":      {64 * configs.MiB, "64MiB"},
		"64 MiB":     {64 * configs.MiB, "64MiB"},
		"1024GiB":    {configs.TiB, "1TiB"},
		"1025KiB":    {1025 * configs.KiB, "1025KiB"},
		"8388607TiB": {8388607 * configs.TiB, "8388607TiB"},
	} {
		var size configs.Size
		if err := size.UnmarshalText([]byte(text)); err != nil || size.Bytes != want.size {
			t.Errorf("%q is %d, %v", text, size.Bytes, err)
		}
		if again, err := size.MarshalText(); err != nil || string(again) != want.again {
			t.Errorf("%q is written as %q, %v", text, again, err)
		}
	}
	for _, text := range []string{"", "5", "MiB", "-1MiB", "1.5GiB", "1MB", "8388608TiB", "1e3B", "0x10B", "1 2B"} {
		var size configs.Size
		if err := size.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q is taken for %d", text, size.Bytes)
		}
	}
}

func TestPercentText(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]int{"0%": 0, "15%": 15, "100 %": 100} {
		var share configs.Percent
		if err := share.UnmarshalText([]byte(text)); err != nil || share.Hundredths != want {
			t.Errorf("%q is %d, %v", text, share.Hundredths, err)
		}
	}
	for _, text := range []string{"", "15", "%", "-1%", "101%", "1.5%"} {
		var share configs.Percent
		if err := share.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q is taken for %d", text, share.Hundredths)
		}
	}
	if text, err := (configs.Percent{Hundredths: 15}).MarshalText(); err != nil || string(text) != "15%" {
		t.Errorf("15 hundredths are written as %q, %v", text, err)
	}
}

func TestDurationText(t *testing.T) {
	t.Parallel()
	for text, again := range map[string]string{
		"3s": "3s", "750ms": "750ms", "300s": "5m", "1h": "1h", "60m30s": "1h0m30s", "90m": "1h30m", "0s": "0s", "10m0s": "10m",
	} {
		var first, second configs.Duration
		if err := first.UnmarshalText([]byte(text)); err != nil {
			t.Errorf("%q: %v", text, err)
		}
		got, err := first.MarshalText()
		if err != nil || string(got) != again {
			t.Errorf("%q is written as %q, %v", text, got, err)
		}
		if err := second.UnmarshalText(got); err != nil || first != second {
			t.Errorf("%q comes back as %s, %v", text, second, err)
		}
	}
}
