package policy

import "datapunk.dev/controlplane/yamlfile"

// Code names a kind of problem. A code never changes its meaning and is never
// used again: MC1xxx is an error, MC2xxx a warning. docs/errors.md explains
// each.
type Code = yamlfile.Code

// What can be wrong with any file, as [yamlfile] has it.
const (
	CodeSyntax       = yamlfile.CodeSyntax
	CodeDocuments    = yamlfile.CodeDocuments
	CodeUnknownKey   = yamlfile.CodeUnknownKey
	CodeDuplicateKey = yamlfile.CodeDuplicateKey
	CodeType         = yamlfile.CodeType
	CodeMissing      = yamlfile.CodeMissing
	CodeAlias        = yamlfile.CodeAlias
	CodeRange        = yamlfile.CodeRange
	CodeWord         = yamlfile.CodeWord
	CodeValue        = yamlfile.CodeValue
)

// What makes a mesh file fail to load.
const (
	CodeUnsupported Code = "MC1007" // a key that a later version will know
	CodeEnvironment Code = "MC1009" // an environment that the file does not have
	CodeDuration    Code = "MC1101" // no unit, or not a duration
	CodeConflict    Code = "MC1105" // two keys that contradict each other
	CodeMultiplier  Code = "MC1207" // a back-off that does not double
	CodeRetryOn     Code = "MC1208" // not a retry condition
	CodeVariable    Code = "MC1301" // ${V:?…} and V is not set
	CodeExpansion   Code = "MC1302" // ${…} that cannot be read
	CodeServiceName Code = "MC1401"
	CodeClaim       Code = "MC1402" // two services claim one name in Consul
	CodeUpstream    Code = "MC1403" // an upstream twice, or its port
	CodeSubset      Code = "MC1404" // a subset that the service does not have, or a name that none can have
	CodePrincipal   Code = "MC1501"
	CodeEmptyPolicy Code = "MC1502" // empty means deny
	CodePolicyName  Code = "MC1503"
	CodePath        Code = "MC1504" // a path that no normalised request has
	CodeNoIdentity  Code = "MC1505" // authorization without mTLS
	CodeTrustDomain Code = "MC1506"
	CodeMatch       Code = "MC1507" // a method, header or regular expression
	CodeLifetime    Code = "MC1508" // cert_rotation and cert_ttl
	CodeEmptyTag    Code = "MC1601"
	CodeRouteName   Code = "MC1701"
	CodeRoute       Code = "MC1702" // routes to, or copies for, a service that takes none
	CodeSplit       Code = "MC1703" // shares that are not all requests
	CodeHeader      Code = "MC1704" // a change of a header that would break messages
)

// What an operator should know of a file that loads. MC2105 and MC2110 were what
// registrations could not do yet.
const (
	CodeUnset       Code = "MC2102" // ${V} and V is not set
	CodeFewRetries  Code = "MC2103"
	CodeUnsafeRetry Code = "MC2104" // POST is retried
	CodeShortLived  Code = "MC2106" // certificates of minutes
	CodeNoEffect    Code = "MC2107"
	CodeDeniesAll   Code = "MC2108"
	CodeForeign     Code = "MC2109" // a principal of another trust domain
	CodeCutRetries  Code = "MC2111" // the request's timeout ends before its retries
	CodePermissive  Code = "MC2112" // plaintext callers and policies by identity
	CodePort        Code = "MC2113" // a port that a sidecar has for something else
	CodeTCP         Code = "MC2114" // a DENY that denies more to a service of TCP
	CodeCallers     Code = "MC2115" // callers of a service of TCP that have to be listed one by one
	CodeSlashes     Code = "MC2116" // a policy by path for a service that takes encoded slashes
	CodeHidden      Code = "MC2117" // a route that no request comes to
	CodeRewrite     Code = "MC2118" // a rewrite that leads around a DENY
)
