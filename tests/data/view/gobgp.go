// What Go's encoding/json prints of GoBGP's own `Peer`, as GoCast's /info does, with the values of
// tests/unit/sample.rs. Recorded with Debian's golang-github-osrg-gobgp-dev 3.10:
//
//	GO111MODULE=off GOPATH=/usr/share/gocode go run tests/data/view/gobgp.go > tests/data/view/gobgp.json
package main

import (
	"encoding/json"
	"os"

	api "github.com/osrg/gobgp/api"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

func capability(message proto.Message) *anypb.Any {
	any, err := anypb.New(message)
	if err != nil {
		panic(err)
	}
	return any
}

func main() {
	ipv4 := &api.Family{Afi: api.Family_AFI_IP, Safi: api.Family_SAFI_UNICAST}
	ipv6 := &api.Family{Afi: api.Family_AFI_IP6, Safi: api.Family_SAFI_UNICAST}
	family := func(family *api.Family, enabled bool) *api.AfiSafi {
		return &api.AfiSafi{
			Config: &api.AfiSafiConfig{Family: family, Enabled: true},
			State:  &api.AfiSafiState{Family: family, Enabled: enabled},
		}
	}
	peer := &api.Peer{
		Conf: &api.PeerConf{
			NeighborAddress: "10.0.0.1", PeerAsn: 65000, LocalAsn: 65001, Type: api.PeerType_EXTERNAL,
		},
		EbgpMultihop: &api.EbgpMultihop{Enabled: true, MultihopTtl: 255},
		State: &api.PeerState{
			NeighborAddress: "10.0.0.1", PeerAsn: 65000, LocalAsn: 65001, Type: api.PeerType_EXTERNAL,
			SessionState: api.PeerState_ESTABLISHED, RouterId: "10.0.0.1", Flops: 1,
			Messages: &api.Messages{
				Received: &api.Message{Open: 1, Keepalive: 5, Total: 6},
				Sent:     &api.Message{Open: 1, Update: 3, Total: 4},
			},
			RemoteCap: []*anypb.Any{
				capability(&api.MultiProtocolCapability{Family: ipv4}),
				capability(&api.RouteRefreshCapability{}),
				capability(&api.FourOctetASNCapability{Asn: 65000}),
			},
		},
		Timers: &api.Timers{
			Config: &api.TimersConfig{HoldTime: 90, KeepaliveInterval: 30},
			State: &api.TimersState{
				NegotiatedHoldTime: 30, KeepaliveInterval: 10,
				Uptime:   &timestamppb.Timestamp{Seconds: 1700000087},
				Downtime: &timestamppb.Timestamp{Seconds: 1700000080},
			},
		},
		Transport: &api.Transport{LocalAddress: "10.0.0.2", RemotePort: 179},
		AfiSafis:  []*api.AfiSafi{family(ipv4, true), family(ipv6, false)},
	}
	encoder := json.NewEncoder(os.Stdout)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(peer); err != nil {
		panic(err)
	}
}
