package everykey

import "strings"

// change is a value of a key and another one, as JSON.
type change struct {
	before, after string
	with          map[string]string // keys beside it that it needs
	above         map[string]string // keys elsewhere that it needs, by their whole path
	whole         bool              // the values are of the section that the key is in
	list          bool              // likewise, of the list that the section is in
	refused       string
}

// Every key has the same edit wherever its section stands.
var changes = map[string]change{
	"mesh.name":    {before: `"shop"`, after: `"store"`},
	"mesh.version": {before: `"1"`, after: `"2"`},

	"edits.waves": {before: `false`, after: `true`},
	"edits.bake":  {before: `"10s"`, after: `"20s"`},

	// A process that runs would look for its catalog elsewhere.
	"discovery.method":                         {before: `{"method": "file", "file": "a.yaml"}`, after: `{"method": "consul"}`, whole: true, refused: "the catalog comes from elsewhere then"},
	"discovery.file":                           {before: `"a.yaml"`, after: `"b.yaml"`, with: map[string]string{"method": `"file"`}, refused: "the catalog comes from elsewhere then"},
	"consul.host":                              {before: `"10.0.0.1"`, after: `"10.0.0.2"`, refused: "the catalog comes from elsewhere then"},
	"consul.port":                              {before: `8500`, after: `8501`, refused: "the catalog comes from elsewhere then"},
	"consul.fallbacks":                         {before: `["10.0.0.2"]`, after: `["10.0.0.3:8500"]`, refused: "the catalog comes from elsewhere then"},
	"consul.scheme":                            {before: `"http"`, after: `"https"`, refused: "the catalog comes from elsewhere then"},
	"consul.token_file":                        {before: `"/a"`, after: `"/b"`, refused: "the catalog comes from elsewhere then"},
	"consul.datacenter":                        {before: `"a"`, after: `"b"`, refused: "the catalog comes from elsewhere then"},
	"consul.datacenters":                       {before: `["a", "b"]`, after: `["a", "c"]`, with: map[string]string{"datacenter": `"a"`}, refused: "the catalog comes from elsewhere then"},
	"consul.consistency":                       {before: `"stale"`, after: `"default"`, refused: "the catalog comes from elsewhere then"},
	"consul.on_outage":                         {before: `null`, after: `"hold"`},
	"consul.register_interval":                 {before: `"10s"`, after: `"11s"`},
	"consul.deregister_critical_service_after": {before: `"2m"`, after: `"3m"`},
	"discovery.register":                       {before: `{"method": "file", "file": "a.yaml"}`, after: `{"method": "file", "file": "a.yaml", "register": true}`, whole: true},
	"removals.confirm":                         {before: `"3s"`, after: `"4s"`},
	"removals.connected":                       {before: `"1m"`, after: `"2m"`},
	"removals.restored":                        {before: `"2m"`, after: `"3m"`},
	"removals.reconnect":                       {before: `"2m"`, after: `"3m"`},
	"select.tags":                              {before: `["a"]`, after: `["a", "b"]`},
	"select.exclude":                           {before: `["nomad*"]`, after: `["nomad*", "consul"]`},
	"select.only_passing":                      {before: `false`, after: `true`},
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
	"registered_check.grpc":                    {before: `{"grpc": "10.0.0.1:1"}`, after: `{"grpc": "10.0.0.1:1/a"}`, whole: true, above: checked},
	"registered_check.by":                      {before: `{"tcp": "10.0.0.1:1"}`, after: `{"tcp": "10.0.0.1:1", "by": "agent"}`, whole: true, above: checked},
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
	"retry_budget.percent":                          {before: `{"percent": 20}`, after: `{"percent": 30}`, whole: true},
	"retry_budget.min_concurrency":                  {before: `{"percent": 20, "min_concurrency": 11}`, after: `{"percent": 20, "min_concurrency": 12}`, whole: true},
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
	"locality.mode":                          {before: `"any"`, after: `"prefer_local"`},
	"locality.zone_meta":                     {before: `"rack"`, after: `"row"`},
	"locality.zone_tag":                      {before: `"rack="`, after: `"row="`},
	"locality.min_healthy_percent":           {before: `60`, after: `50`, with: map[string]string{"failover": `[{"from": ["a"], "to": ["b"]}]`}},
	"failover.from":                          {before: `{"from": ["a"]}`, after: `{"from": ["b"]}`, whole: true},
	"failover.to":                            {before: `{"from": ["a"], "to": ["b"]}`, after: `{"from": ["a"], "to": ["c"]}`, whole: true},
	"hash_policy.header":                     {before: `{"header": "x-a"}`, after: `{"header": "x-b"}`, whole: true, above: hashing},
	"hash_policy.cookie":                     {before: `{"cookie": "a"}`, after: `{"cookie": "b"}`, whole: true, above: hashing},
	"hash_policy.source_ip":                  {before: `{"header": "x-a"}`, after: `{"source_ip": true}`, whole: true, above: hashing},
	"health_checks.protocol":                 {before: `{"protocol": "tcp"}`, after: `{"protocol": "http", "path": "/"}`, whole: true},
	"health_checks.path":                     {before: `{"protocol": "http", "path": "/a"}`, after: `{"protocol": "http", "path": "/b"}`, whole: true},
	"health_checks.timeout":                  {before: `"1s"`, after: `"2s"`},
	"health_checks.interval":                 {before: `"20s"`, after: `"21s"`},
	"health_checks.unhealthy_threshold":      {before: `4`, after: `5`},
	"health_checks.healthy_threshold":        {before: `1`, after: `2`},
	"health_check.http":                      {before: `{"http": "/a"}`, after: `{"http": "/b"}`, whole: true},
	"health_check.tcp":                       {before: `{"http": "/a"}`, after: `{"tcp": true}`, whole: true},
	"health_check.grpc":                      {before: `{"http": "/a"}`, after: `{"grpc": true}`, whole: true},
	"health_check.interval":                  {before: `{"http": "/a", "interval": "6s"}`, after: `{"http": "/a", "interval": "7s"}`, whole: true},
	"health_check.timeout":                   {before: `{"http": "/a", "timeout": "1s"}`, after: `{"http": "/a", "timeout": "3s"}`, whole: true},
	"health_check.unhealthy_threshold":       {before: `{"http": "/a", "unhealthy_threshold": 3}`, after: `{"http": "/a", "unhealthy_threshold": 4}`, whole: true},
	"health_check.healthy_threshold":         {before: `{"http": "/a", "healthy_threshold": 3}`, after: `{"http": "/a", "healthy_threshold": 4}`, whole: true},

	"retry.attempts":                  {before: `3`, after: `4`},
	"retry.timeout":                   {before: `"10s"`, after: `"11s"`},
	"retry.conditions":                {before: `["connect-failure"]`, after: `["connect-failure", "reset"]`},
	"retry.methods":                   {before: `["GET"]`, after: `["GET", "PUT"]`},
	"retry.status_codes":              {before: `[503]`, after: `[504]`},
	"retry.host_selection":            {before: `"previous_hosts"`, after: `"any"`},
	"retry.max_body_bytes":            {before: `1000`, after: `1001`},
	"backoff.base_interval":           {before: `"10ms"`, after: `"11ms"`},
	"backoff.max_interval":            {before: `"1s"`, after: `"2s"`},
	"backoff.retry_after":             {before: `"1s"`, after: `"2s"`},
	"backoff.multiplier":              {before: `null`, after: `2`},
	"slow_start.window":               {before: `"30s"`, after: `"40s"`},
	"slow_start.min_weight_percent":   {before: `20`, after: `30`},
	"admission_control.enabled":       {before: `true`, after: `false`},
	"admission_control.success_rate":  {before: `90`, after: `91`},
	"admission_control.window":        {before: `"10s"`, after: `"20s"`},
	"admission_control.min_rps":       {before: `10`, after: `11`},
	"admission_control.max_rejection": {before: `50`, after: `51`},
	"rate_limit.requests":             {before: `100`, after: `101`},
	"rate_limit.interval":             {before: `"1s"`, after: `"2s"`, with: map[string]string{"requests": `100`}},
	"rate_limit.burst":                {before: `200`, after: `201`, with: map[string]string{"requests": `100`}},
	"rate_limit.status":               {before: `429`, after: `503`, with: map[string]string{"requests": `100`}},
	"rate_limit.per":                  {before: `"proxy"`, after: `"service"`, with: map[string]string{"requests": `100`}},
	"rate_limit.mode":                 {before: `"enforce"`, after: `"shadow"`, with: map[string]string{"requests": `100`}},
	"limit_server.service":            {before: `"shop"`, after: `"other"`, above: counted},
	"limit_server.address":            {before: `"127.0.0.1:8081"`, after: `"127.0.0.1:8082"`, above: counted},
	"limit_server.domain":             {before: `"a"`, after: `"b"`, with: counting, above: counted},
	"limit_server.timeout":            {before: `"20ms"`, after: `"30ms"`, with: counting, above: counted},
	"limit_server.on_failure":         {before: `"allow"`, after: `"deny"`, with: counting, above: counted},
	"limit_server_tls.ca":             {before: `{"ca": "` + limitRoot + `"}`, after: `{"ca": "` + limitRoot + `\n"}`, whole: true, above: countedAt},
	"limit_server_tls.server_name":    {before: `{"ca": "` + limitRoot + `", "server_name": "a"}`, after: `{"ca": "` + limitRoot + `", "server_name": "b"}`, whole: true, above: countedAt},
	"caller_limit.requests":           {before: `{"requests": 10}`, after: `{"requests": 11}`, whole: true},
	"caller_limit.interval":           {before: `{"requests": 10}`, after: `{"requests": 10, "interval": "2s"}`, whole: true},
	"caller_limit.burst":              {before: `{"requests": 10}`, after: `{"requests": 10, "burst": 20}`, whole: true},
	"timeout.connect":                 {before: `"3s"`, after: `"4s"`},
	"timeout.idle":                    {before: `"10m"`, after: `"11m"`},
	"timeout.app_idle":                {before: `"2s"`, after: `"3s"`},
	"timeout.request":                 {before: `"30s"`, after: `"31s"`},
	"timeout.stream_idle":             {before: `"3m"`, after: `"4m"`},
	"timeout.max_stream_duration":     {before: `"2h"`, after: `"3h"`},
	"timeout.max_connection_duration": {before: `"2h"`, after: `"3h"`, above: map[string]string{"services.web.protocol": `"tcp"`}},

	"service.consul_service":   {before: `"elsewhere"`, after: `"web"`},
	"service.protocol":         {before: `"http"`, after: `"tcp"`},
	"service.encoded_slashes":  {before: `"refuse"`, after: `"keep"`},
	"service.default_subset":   {before: `"stable"`, after: `"canary"`, with: twoSubsets},
	"service.on_empty_subset":  {before: `"redistribute"`, after: `"fail"`, with: inSubset},
	"subset.tag":               {before: `"old"`, after: `"new"`},
	"subset.version":           {before: `"1"`, after: `"2"`},
	"subset.filter":            {before: `"\"old\" in Service.Tags"`, after: `"\"new\" in Service.Tags"`},
	"subset.only_passing":      {before: `{"meta": {"mesh_port": "15008"}}`, after: `{"meta": {"mesh_port": "15008"}, "only_passing": true}`, whole: true},
	"subset.meta":              {before: `{"mesh_port": "15008"}`, after: `{"mesh_port": "15009"}`},
	"service.upstreams":        {before: `["other"]`, after: `["other", "shop"]`},
	"upstream.service":         {before: `{"service": "shop"}`, after: `{"service": "other"}`, whole: true},
	"upstream.local_bind_port": {before: `{"service": "db", "local_bind_port": 5433}`, after: `{"service": "db", "local_bind_port": 5434}`, whole: true},

	"route.name":                        {before: `"edited"`, after: `"other"`},
	"route.service":                     {before: `"web"`, after: `"other"`},
	"route.on_empty_subset":             {before: `"redistribute"`, after: `"fail"`, above: map[string]string{"services.other.subsets": `{"stable": {}}`, "services.other.default_subset": `"stable"`}},
	"route_match.methods":               {before: `["GET"]`, after: `["GET", "PUT"]`},
	"path_match.exact":                  {before: `{"exact": "/a"}`, after: `{"exact": "/b"}`, whole: true},
	"path_match.prefix":                 {before: `{"prefix": "/a"}`, after: `{"prefix": "/b"}`, whole: true},
	"path_match.template":               {before: `{"template": "/a/*"}`, after: `{"template": "/b/*"}`, whole: true},
	"path_match.regex":                  {before: `{"regex": "/a+"}`, after: `{"regex": "/b+"}`, whole: true},
	"route_header.name":                 {before: `{"name": "x-a", "exact": "a"}`, after: `{"name": "x-b", "exact": "a"}`, whole: true},
	"route_header.invert":               {before: `{"name": "x-a", "exact": "a"}`, after: `{"name": "x-a", "exact": "a", "invert": true}`, whole: true},
	"route_header.exact":                {before: `{"name": "x-a", "exact": "a"}`, after: `{"name": "x-a", "exact": "b"}`, whole: true},
	"route_header.prefix":               {before: `{"name": "x-a", "prefix": "a"}`, after: `{"name": "x-a", "prefix": "b"}`, whole: true},
	"route_header.suffix":               {before: `{"name": "x-a", "suffix": "a"}`, after: `{"name": "x-a", "suffix": "b"}`, whole: true},
	"route_header.regex":                {before: `{"name": "x-a", "regex": "a+"}`, after: `{"name": "x-a", "regex": "b+"}`, whole: true},
	"route_header.present":              {before: `{"name": "x-a", "present": true}`, after: `{"name": "x-a", "present": false}`, whole: true},
	"query_match.name":                  {before: `{"name": "a", "exact": "a"}`, after: `{"name": "b", "exact": "a"}`, whole: true},
	"query_match.exact":                 {before: `{"name": "a", "exact": "a"}`, after: `{"name": "a", "exact": "b"}`, whole: true},
	"query_match.prefix":                {before: `{"name": "a", "prefix": "a"}`, after: `{"name": "a", "prefix": "b"}`, whole: true},
	"query_match.regex":                 {before: `{"name": "a", "regex": "a+"}`, after: `{"name": "a", "regex": "b+"}`, whole: true},
	"query_match.present":               {before: `{"name": "a", "present": true}`, after: `{"name": "a", "present": false}`, whole: true},
	"grpc_match.service":                {before: `{"service": "a.B"}`, after: `{"service": "a.C"}`, whole: true, above: anyPath},
	"grpc_match.method":                 {before: `{"service": "a.B", "method": "C"}`, after: `{"service": "a.B", "method": "D"}`, whole: true, above: anyPath},
	"share.subset":                      {before: `{"subset": "stable"}`, after: `{"subset": "canary"}`, whole: true, above: parted},
	"share.service":                     {before: `{"service": "web"}`, after: `{"service": "shop"}`, whole: true},
	"share.weight":                      {before: `[{"service": "web", "weight": 10}, {"service": "other", "weight": 90}]`, after: `[{"service": "web", "weight": 20}, {"service": "other", "weight": 80}]`, list: true},
	"rewrite.prefix":                    {before: `{"prefix": "/a"}`, after: `{"prefix": "/b"}`, whole: true},
	"rewrite.regex":                     {before: `{"regex": "a", "substitution": "c"}`, after: `{"regex": "b", "substitution": "c"}`, whole: true},
	"rewrite.substitution":              {before: `{"regex": "a", "substitution": "c"}`, after: `{"regex": "a", "substitution": "d"}`, whole: true},
	"rewrite.host":                      {before: `{"host": "a.example"}`, after: `{"host": "b.example"}`, whole: true},
	"redirect.path":                     {before: `{"path": "/a"}`, after: `{"path": "/b"}`, whole: true},
	"redirect.prefix":                   {before: `{"prefix": "/a"}`, after: `{"prefix": "/b"}`, whole: true},
	"redirect.host":                     {before: `{"host": "a.example"}`, after: `{"host": "b.example"}`, whole: true},
	"redirect.status":                   {before: `{"path": "/a", "status": 302}`, after: `{"path": "/a", "status": 307}`, whole: true},
	"direct_response.status":            {before: `{"status": 503}`, after: `{"status": 410}`, whole: true},
	"direct_response.body":              {before: `{"status": 503, "body": "a"}`, after: `{"status": 503, "body": "b"}`, whole: true},
	"mirror.service":                    {before: `{"service": "web"}`, after: `{"service": "shop"}`, whole: true},
	"mirror.subset":                     {before: `{"subset": "stable"}`, after: `{"subset": "canary"}`, whole: true, above: parted},
	"mirror.percent":                    {before: `{"service": "web", "percent": 10}`, after: `{"service": "web", "percent": 20}`, whole: true},
	"request_header_edit.set":           {before: `{"x-a": "1"}`, after: `{"x-a": "2"}`, above: oneShare},
	"request_header_edit.add":           {before: `{"x-a": "1"}`, after: `{"x-a": "2"}`, above: oneShare},
	"request_header_edit.remove":        {before: `["x-a"]`, after: `["x-b"]`, above: oneShare},
	"response_header_edit.set":          {before: `{"x-a": "1"}`, after: `{"x-a": "2"}`, above: oneShare},
	"response_header_edit.add":          {before: `{"x-a": "1"}`, after: `{"x-a": "2"}`, above: oneShare},
	"response_header_edit.remove":       {before: `["x-a"]`, after: `["x-b"]`, above: oneShare},
	"delay.duration":                    {before: `{"duration": "1s"}`, after: `{"duration": "2s"}`, whole: true},
	"delay.percent":                     {before: `{"duration": "1s", "percent": 1}`, after: `{"duration": "1s", "percent": 2}`, whole: true},
	"abort.status":                      {before: `{"status": 503}`, after: `{"status": 500}`, whole: true},
	"abort.grpc_status":                 {before: `{"grpc_status": 13}`, after: `{"grpc_status": 14}`, whole: true},
	"abort.percent":                     {before: `{"status": 503, "percent": 1}`, after: `{"status": 503, "percent": 2}`, whole: true},
	"sticky.header":                     {before: `{"header": "x-a"}`, after: `{"header": "x-b"}`, whole: true, above: twoShares},
	"sticky.cookie":                     {before: `{"cookie": "a"}`, after: `{"cookie": "b"}`, whole: true, above: twoShares},
	"sticky.ttl":                        {before: `{"cookie": "a"}`, after: `{"cookie": "a", "ttl": "1h"}`, whole: true, above: twoShares},
	"cors.allow_origins":                {before: `["https://a.example"]`, after: `["https://*.example"]`},
	"cors.allow_methods":                {before: `["GET"]`, after: `["GET", "PUT"]`, with: oneOrigin},
	"cors.allow_headers":                {before: `["x-a"]`, after: `["x-b"]`, with: oneOrigin},
	"cors.expose_headers":               {before: `["x-a"]`, after: `["x-b"]`, with: oneOrigin},
	"cors.max_age":                      {before: `"1m"`, after: `"2m"`, with: oneOrigin},
	"cors.allow_credentials":            {before: `false`, after: `true`, with: oneOrigin},
	"route_timeout.request":             {before: `"30s"`, after: `"31s"`},
	"route_timeout.stream_idle":         {before: `"3m"`, after: `"4m"`},
	"route_timeout.max_stream_duration": {before: `"2h"`, after: `"3h"`},
	"route.hedging":                     {before: `false`, after: `true`, above: map[string]string{"routes[].retry": `{"attempts": 1, "timeout": "1s"}`}},

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

	"mtls.enabled":                  {before: `true`, after: `false`, above: map[string]string{"security.authorization": `{"enabled": false}`}},
	"mtls.mode":                     {before: `"strict"`, after: `"permissive"`},
	"mtls.trust_domain":             {before: `"shop"`, after: `"store"`, refused: "a trust domain is for life"},
	"mtls.cert_rotation":            {before: `"23h"`, after: `"22h"`},
	"mtls.root":                     {before: `"sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"`, after: `"sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"`, refused: "an authority is for life"},
	"ca.provider":                   {before: `{"provider": "builtin", "cert_file": "/a", "key_file": "/b"}`, after: `{"provider": "files", "cert_file": "/a", "key_file": "/b"}`, whole: true, refused: "an authority is for life"},
	"ca.cert_file":                  {before: `{"cert_file": "/a", "key_file": "/b"}`, after: `{"cert_file": "/c", "key_file": "/b"}`, whole: true, refused: "an authority is for life"},
	"ca.key_file":                   {before: `{"cert_file": "/a", "key_file": "/b"}`, after: `{"cert_file": "/a", "key_file": "/c"}`, whole: true, refused: "an authority is for life"},
	"mtls.cert_ttl":                 {before: `"49h"`, after: `"50h"`},
	"authorization.enabled":         {before: `true`, after: `false`},
	"authorization.explain_denials": {before: `false`, after: `true`},
	"authorization.default_action":  {before: `"DENY"`, after: `"ALLOW"`},

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

// counting is a server of limits; counted and countedAt have one asked for web, and it
// is a service or is at an address.
var (
	counting  = map[string]string{"address": `"127.0.0.1:8081"`}
	counted   = map[string]string{"services.web.rate_limit": `{"per": "global"}`, "services.shop.protocol": `"grpc"`, "services.other.protocol": `"grpc"`}
	countedAt = map[string]string{"services.web.rate_limit": `{"per": "global"}`, "policies.rate_limit.server.address": `"127.0.0.1:8081"`}
)

// limitRoot is the root of a server of limits, as JSON.
var limitRoot = strings.ReplaceAll(`-----BEGIN CERTIFICATE-----
MIIBczCCARmgAwIBAgIUdWsmV+lqEb+aEhKmwM4VvNp+WPAwCgYIKoZIzj0EAwIw
DzENMAsGA1UEAwwEcm9vdDAeFw0yNjExMjQxNTI3MDNaFw0zNjExMjExNTI3MDNa
MA8xDTALBgNVBAMMBHJvb3QwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAAQa3Eef
U/a/BP+qql0RzzLdw3tAWqiCy5YUMAyCNVPguPj0egqKL+9BLmA8iEG8K2LXpqXM
ZKq9thwuNvDlp8tSo1MwUTAdBgNVHQ4EFgQUjMDPPxmjmC9/Dnhqaf/aSCE7hkgw
HwYDVR0jBBgwFoAUjMDPPxmjmC9/Dnhqaf/aSCE7hkgwDwYDVR0TAQH/BAUwAwEB
/zAKBggqhkjOPQQDAgNIADBFAiBfWyA79SpJ7IAEGJ82kgcPYk/gHEeCShxx7u5H
1K/GhAIhAPxAFTVTfstSa7ILP986Du33afI3wQogLUOQ0IYj5URr
-----END CERTIFICATE-----`, "\n", `\n`)

// twoSubsets and inSubset are what a service has that is called in parts.
var (
	twoSubsets = map[string]string{"subsets": `{"stable": {}, "canary": {}}`}
	parted     = map[string]string{"services.other.subsets": `{"stable": {}, "canary": {}}`}
	oneShare   = map[string]string{"routes[].split[]": `{"service": "web"}`}
	twoShares  = map[string]string{"routes[].split": `[{"service": "web", "weight": 50}, {"service": "other", "weight": 50}]`}
	oneOrigin  = map[string]string{"allow_origins": `["https://a.example"]`}
	anyPath    = map[string]string{"routes[].match[]": `{"grpc": {}}`}
	inSubset   = map[string]string{"subsets": `{"stable": {}}`, "default_subset": `"stable"`}
)
