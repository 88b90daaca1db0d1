package everykey

// change is a value of a key and another one, as JSON.
type change struct {
	before, after string
	with          map[string]string // keys beside it that it needs
	above         map[string]string // keys elsewhere that it needs, by their whole path
	whole         bool              // the values are of the section that the key is in
	refused       string
}

// Every key has the same edit wherever its section stands.
var changes = map[string]change{
	"mesh.name":    {before: `"shop"`, after: `"store"`},
	"mesh.version": {before: `"1"`, after: `"2"`},

	// A process that runs would look for its catalog elsewhere.
	"discovery.method":                         {before: `{"method": "file", "file": "a.yaml"}`, after: `{"method": "consul"}`, whole: true, refused: "the catalog comes from elsewhere then"},
	"discovery.file":                           {before: `"a.yaml"`, after: `"b.yaml"`, with: map[string]string{"method": `"file"`}, refused: "the catalog comes from elsewhere then"},
	"consul.host":                              {before: `"10.0.0.1"`, after: `"10.0.0.2"`, refused: "the catalog comes from elsewhere then"},
	"consul.port":                              {before: `8500`, after: `8501`, refused: "the catalog comes from elsewhere then"},
	"consul.scheme":                            {before: `"http"`, after: `"https"`, refused: "the catalog comes from elsewhere then"},
	"consul.token_file":                        {before: `"/a"`, after: `"/b"`, refused: "the catalog comes from elsewhere then"},
	"consul.datacenter":                        {before: `"a"`, after: `"b"`, refused: "the catalog comes from elsewhere then"},
	"consul.consistency":                       {before: `"stale"`, after: `"default"`, refused: "the catalog comes from elsewhere then"},
	"consul.register_interval":                 {before: `"10s"`, after: `"11s"`},
	"consul.deregister_critical_service_after": {before: `"2m"`, after: `"3m"`},
	"discovery.register":                       {before: `{"method": "file", "file": "a.yaml"}`, after: `{"method": "file", "file": "a.yaml", "register": true}`, whole: true},
	"register.enabled":                         {before: `true`, after: `false`},
	"register.control_plane":                   {before: `true`, after: `false`},
	"registered.name":                          {before: registered, after: `{"name": "pg", "id": "a", "address": "10.0.0.1", "port": 1}`, whole: true},
	"registered.id":                            {before: registered, after: `{"name": "web", "id": "b", "address": "10.0.0.1", "port": 1}`, whole: true},
	"registered.address":                       {before: registered, after: `{"name": "web", "id": "a", "address": "10.0.0.2", "port": 1}`, whole: true},
	"registered.port":                          {before: registered, after: `{"name": "web", "id": "a", "address": "10.0.0.1", "port": 2}`, whole: true},
	"registered.tags":                          {before: `["a"]`, after: `["b"]`, with: registeredKeys},
	"registered.meta":                          {before: `{"a": "1"}`, after: `{"a": "2"}`, with: registeredKeys},
	"registered_check.http":                    {before: `{"http": "http://10.0.0.1/a"}`, after: `{"http": "http://10.0.0.1/b"}`, whole: true, above: checked},
	"registered_check.tcp":                     {before: `{"tcp": "10.0.0.1:1"}`, after: `{"tcp": "10.0.0.1:2"}`, whole: true, above: checked},
	"registered_check.interval":                {before: `{"tcp": "10.0.0.1:1", "interval": "1s"}`, after: `{"tcp": "10.0.0.1:1", "interval": "2s"}`, whole: true, above: checked},
	"registered_check.timeout":                 {before: `{"tcp": "10.0.0.1:1", "timeout": "1s"}`, after: `{"tcp": "10.0.0.1:1", "timeout": "2s"}`, whole: true, above: checked},
	"consul_tls.ca_file":                       {before: `"/a"`, after: `"/b"`, above: overTLS, refused: "the catalog comes from elsewhere then"},
	"consul_tls.cert_file":                     {before: `{"cert_file": "/a", "key_file": "/a"}`, after: `{"cert_file": "/b", "key_file": "/b"}`, whole: true, above: overTLS, refused: "the catalog comes from elsewhere then"},
	"consul_tls.key_file":                      {before: `{"cert_file": "/a", "key_file": "/a"}`, after: `{"cert_file": "/a", "key_file": "/b"}`, whole: true, above: overTLS, refused: "the catalog comes from elsewhere then"},
	"consul_tls.server_name":                   {before: `"a"`, after: `"b"`, above: overTLS, refused: "the catalog comes from elsewhere then"},

	"limits.max_connections":                        {before: `100`, after: `101`},
	"limits.max_pending_requests":                   {before: `100`, after: `101`},
	"limits.max_requests":                           {before: `100`, after: `101`},
	"limits.max_retries":                            {before: `100`, after: `101`},
	"service_circuit_breakers.max_connections":      {before: `100`, after: `101`},
	"service_circuit_breakers.max_pending_requests": {before: `100`, after: `101`},
	"service_circuit_breakers.max_requests":         {before: `100`, after: `101`},
	"service_circuit_breakers.max_retries":          {before: `100`, after: `101`},
	"outlier_detection.consecutive_5xx":             {before: `7`, after: `8`},
	"outlier_detection.consecutive_gateway_failure": {before: `7`, after: `8`},
	"outlier_detection.interval":                    {before: `"5s"`, after: `"6s"`},
	"outlier_detection.base_ejection_time":          {before: `"20s"`, after: `"21s"`},
	"outlier_detection.max_ejection_time":           {before: `"100s"`, after: `"101s"`},
	"outlier_detection.max_ejection_percent":        {before: `40`, after: `41`},

	"load_balancing.policy":                  {before: `"round_robin"`, after: `"random"`},
	"load_balancing.panic_threshold":         {before: `40`, after: `41`},
	"service_load_balancing.policy":          {before: `"round_robin"`, after: `"random"`},
	"service_load_balancing.panic_threshold": {before: `40`, after: `41`},
	"hash_policy.header":                     {before: `{"header": "x-a"}`, after: `{"header": "x-b"}`, whole: true, above: hashing},
	"hash_policy.cookie":                     {before: `{"cookie": "a"}`, after: `{"cookie": "b"}`, whole: true, above: hashing},
	"hash_policy.source_ip":                  {before: `{"header": "x-a"}`, after: `{"source_ip": true}`, whole: true, above: hashing},
	"health_checks.protocol":                 {before: `{"protocol": "tcp"}`, after: `{"protocol": "http", "path": "/"}`, whole: true},
	"health_checks.path":                     {before: `{"protocol": "http", "path": "/a"}`, after: `{"protocol": "http", "path": "/b"}`, whole: true},
	"health_checks.timeout":                  {before: `"1s"`, after: `"2s"`},
	"health_checks.interval":                 {before: `"20s"`, after: `"21s"`},
	"health_checks.unhealthy_threshold":      {before: `4`, after: `5`},
	"health_checks.healthy_threshold":        {before: `1`, after: `2`},

	"retry.attempts":                  {before: `3`, after: `4`},
	"retry.timeout":                   {before: `"10s"`, after: `"11s"`},
	"retry.conditions":                {before: `["connect-failure"]`, after: `["connect-failure", "reset"]`},
	"retry.methods":                   {before: `["GET"]`, after: `["GET", "PUT"]`},
	"retry.status_codes":              {before: `[503]`, after: `[504]`},
	"retry.max_body_bytes":            {before: `1000`, after: `1001`},
	"backoff.base_interval":           {before: `"10ms"`, after: `"11ms"`},
	"backoff.max_interval":            {before: `"1s"`, after: `"2s"`},
	"backoff.multiplier":              {before: `null`, after: `2`},
	"timeout.connect":                 {before: `"3s"`, after: `"4s"`},
	"timeout.idle":                    {before: `"10m"`, after: `"11m"`},
	"timeout.app_idle":                {before: `"2s"`, after: `"3s"`},
	"timeout.request":                 {before: `"30s"`, after: `"31s"`},
	"timeout.stream_idle":             {before: `"3m"`, after: `"4m"`},
	"timeout.max_connection_duration": {before: `"2h"`, after: `"3h"`, above: map[string]string{"services.web.protocol": `"tcp"`}},

	"service.consul_service":   {before: `"elsewhere"`, after: `"web"`},
	"service.protocol":         {before: `"http"`, after: `"tcp"`},
	"service.encoded_slashes":  {before: `"refuse"`, after: `"keep"`},
	"service.upstreams":        {before: `["other"]`, after: `["other", "shop"]`},
	"upstream.service":         {before: `{"service": "shop"}`, after: `{"service": "other"}`, whole: true},
	"upstream.local_bind_port": {before: `{"service": "db", "local_bind_port": 5433}`, after: `{"service": "db", "local_bind_port": 5434}`, whole: true},

	"tracing.enabled":              {before: `true`, after: `false`},
	"tracing.provider":             {before: `"otlp"`, after: `"zipkin"`},
	"tracing.sampling_rate":        {before: `0.3`, after: `0.4`},
	"tracing.endpoint":             {before: `"127.0.0.1:4317"`, after: `"127.0.0.1:4318"`},
	"tracing.service":              {before: `"spans"`, after: `"other"`, with: map[string]string{"endpoint": `null`}},
	"tag.key":                      {before: `{"key": "a", "value": "x"}`, after: `{"key": "b", "value": "x"}`, whole: true},
	"tag.value":                    {before: `{"key": "a", "value": "x"}`, after: `{"key": "a", "value": "y"}`, whole: true},
	"metrics.enabled":              {before: `true`, after: `false`},
	"metrics.provider":             {before: `null`, after: `"prometheus"`},
	"metrics.scrape_interval":      {before: `"20s"`, after: `"21s"`},
	"metrics.path":                 {before: `"/a"`, after: `"/b"`},
	"metrics.port":                 {before: `9103`, after: `9104`},
	"access_logs.enabled":          {before: `true`, after: `false`},
	"access_logs.provider":         {before: `null`, after: `"file"`},
	"access_logs.path":             {before: `"/dev/null"`, after: `"/dev/full"`},
	"access_logs.format":           {before: `"json"`, after: `"text"`},
	"access_log_filter.min_status": {before: `400`, after: `500`},
	"access_log_filter.sample":     {before: `0.1`, after: `0.2`, with: map[string]string{"min_status": `400`}},

	"mtls.enabled":                 {before: `true`, after: `false`, above: map[string]string{"security.authorization": `{"enabled": false}`}},
	"mtls.mode":                    {before: `"strict"`, after: `"permissive"`},
	"mtls.trust_domain":            {before: `"shop"`, after: `"store"`, refused: "a trust domain is for life"},
	"mtls.cert_rotation":           {before: `"23h"`, after: `"22h"`},
	"mtls.cert_ttl":                {before: `"49h"`, after: `"50h"`},
	"authorization.enabled":        {before: `true`, after: `false`},
	"authorization.default_action": {before: `"DENY"`, after: `"ALLOW"`},

	"policy.name":             {before: `"a"`, after: `"b"`},
	"policy.action":           {before: `"ALLOW"`, after: `"DENY"`},
	"policy.mode":             {before: `"enforce"`, after: `"shadow"`},
	"policy.principals":       {before: `["spiffe://shop/x"]`, after: `["spiffe://shop/y"]`},
	"policy.not_principals":   {before: `["spiffe://shop/x"]`, after: `["spiffe://shop/y"]`},
	"policy.sources":          {before: `["x"]`, after: `["y"]`},
	"policy.not_sources":      {before: `["x"]`, after: `["y"]`},
	"policy.destinations":     {before: `["other"]`, after: `["web", "db"]`},
	"policy.not_destinations": {before: `["other"]`, after: `["shop"]`},
	"policy.paths":            {before: `["/a"]`, after: `["/b"]`},
	"policy.not_paths":        {before: `["/a"]`, after: `["/b"]`},
	"policy.methods":          {before: `["GET"]`, after: `["PUT"]`},
	"policy.not_methods":      {before: `["GET"]`, after: `["PUT"]`},
	"policy.ports":            {before: `[8080]`, after: `[8081]`},
	"policy.not_ports":        {before: `[8080]`, after: `[8081]`},
	"header.name":             {before: `{"name": "x-a", "exact": "a"}`, after: `{"name": "x-b", "exact": "a"}`, whole: true},
	"header.exact":            {before: `{"name": "x-a", "exact": "a"}`, after: `{"name": "x-a", "exact": "b"}`, whole: true},
	"header.prefix":           {before: `{"name": "x-a", "prefix": "a"}`, after: `{"name": "x-a", "prefix": "b"}`, whole: true},
	"header.suffix":           {before: `{"name": "x-a", "suffix": "a"}`, after: `{"name": "x-a", "suffix": "b"}`, whole: true},
	"header.regex":            {before: `{"name": "x-a", "regex": "a+"}`, after: `{"name": "x-a", "regex": "b+"}`, whole: true},
	"header.present":          {before: `{"name": "x-a", "present": true}`, after: `{"name": "x-a", "present": false}`, whole: true},
}

// hashing has both the mesh and the service pick by a hash.
var hashing = map[string]string{"load_balancing.policy": `"ring_hash"`, "services.web.load_balancing.policy": `"ring_hash"`}

// overTLS has Consul called by TLS.
var overTLS = map[string]string{"discovery.consul.scheme": `"https"`}

// registered is an instance that the file registers, and checked the same for
// one that has a check.
const registered = `{"name": "web", "id": "a", "address": "10.0.0.1", "port": 1}`

var (
	registeredKeys = map[string]string{"name": `"web"`, "id": `"a"`, "address": `"10.0.0.1"`, "port": `1`}
	checked        = map[string]string{"discovery.consul.register.services[]": registered}
)
