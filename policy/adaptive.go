package policy

import "time"

// SlowStart has a new instance take its share of the requests bit by bit; zero: at
// once.
type SlowStart struct {
	Window           time.Duration
	MinWeightPercent float64
}

// AdmissionControl has the sidecars of a service refuse a part of the requests while
// many of them fail; zero: none.
type AdmissionControl struct {
	Enabled      bool
	SuccessRate  uint32 // percent, below which it begins
	Window       time.Duration
	MinRPS       uint32
	MaxRejection float64 // percent
}

func (d *decoder) slowStart(s *mapping, to *Service) {
	if !s.present() {
		return
	}
	start := &to.LoadBalancing.SlowStart
	if *start == (SlowStart{}) {
		slowStartKeys.defaults(start)
	}
	slowStartKeys.read(s, start)
}

func (d *decoder) admissionControl(s *mapping, to *Service) {
	if !s.present() {
		return
	}
	if to.AdmissionControl == (AdmissionControl{}) {
		admissionKeys.defaults(&to.AdmissionControl)
	}
	admissionKeys.read(s, &to.AdmissionControl)
	if !to.AdmissionControl.Enabled && !s.has("enabled") {
		s.first(admissionKeys.names()...).fail(CodeNoEffect, "enabled: true", "has no effect: enabled is false, which the section above it says")
	}
	to.came(SettingAdmissionControl, s.key)
}
