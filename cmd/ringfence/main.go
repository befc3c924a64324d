// Command ringfence is the stock binary: the command line with the stock classes.
package main

import (
	"github.com/ringfence/ringfence/actor/stock"
	"github.com/ringfence/ringfence/cmd"
)

func main() { cmd.Main(stock.Classes()...) }
