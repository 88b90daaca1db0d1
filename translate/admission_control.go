package translate

import (
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	admissionv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/admission_control/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"

	"datapunk.dev/controlplane/policy"
)

const filterAdmission = "controlplane.admission"

// admissionControl refuses a part of the requests while many fail: what is a failure
// Envoy says. The names of runtime keys are its constraint; nothing sets them.
func admissionControl(a policy.AdmissionControl) *admissionv3.AdmissionControl {
	key := func(name string) string { return filterAdmission + "." + name }
	percent := func(name string, value float64) *corev3.RuntimePercent {
		return &corev3.RuntimePercent{RuntimeKey: key(name), DefaultValue: &typev3.Percent{Value: value}}
	}
	return &admissionv3.AdmissionControl{
		Enabled: &corev3.RuntimeFeatureFlag{RuntimeKey: key("enabled"), DefaultValue: boolean(true)},
		EvaluationCriteria: &admissionv3.AdmissionControl_SuccessCriteria_{SuccessCriteria: &admissionv3.AdmissionControl_SuccessCriteria{
			HttpCriteria: &admissionv3.AdmissionControl_SuccessCriteria_HttpCriteria{HttpSuccessStatus: []*typev3.Int32Range{{Start: 100, End: 500}}},
		}},
		SamplingWindow:          duration(a.Window),
		SrThreshold:             percent("sr_threshold", float64(a.SuccessRate)),
		RpsThreshold:            &corev3.RuntimeUInt32{RuntimeKey: key("rps_threshold"), DefaultValue: a.MinRPS},
		MaxRejectionProbability: percent("max_rejection_probability", a.MaxRejection),
	}
}
